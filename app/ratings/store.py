"""Queries on users and ratings. Functions take a connection and never commit.

Writers lock the ratings counter first, so they run one after the other and revisions become visible in the
order of their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Engine, Row, delete, insert, select

from app.db.connections import is_sqlite
from app.db.engine import Database
from app.db.paging import cursor_after, key_before
from app.db.revisions import Counter, advance, revision
from app.errors import NotFound
from app.imports.line_import import BatchCounts
from app.items.models import Item
from app.ratings import upsert_postgres, upsert_sqlite
from app.ratings.models import DeletedRating, NewRating, Rating, SavedRating, User

AnyRow = Row[*tuple[Any, ...]]


class UnknownUser(NotFound):
    def __init__(self, user_id: str) -> None:
        super().__init__(f"user {user_id!r} does not exist")
        self.user_id = user_id


class UnknownRating(NotFound):
    def __init__(self, user_id: str, item_id: str) -> None:
        super().__init__(f"user {user_id!r} has not rated item {item_id!r}")
        self.user_id = user_id
        self.item_id = item_id


class Totals(NamedTuple):
    n_ratings: int
    n_users: int
    n_items: int


class Upsert(Protocol):
    """How ratings of different pairs are created or replaced, by each kind of database.

    A pair without a rating gets one: "created". A rating with the same value and no time, or the same time, changes
    nothing: "unchanged". Any other replaces the stored value and time: "updated". A rating without a time gets `now`,
    by default the current time of the database. Each rating created or updated takes the next revision, in the order
    of `ratings`. Users and items that are new are created.
    """

    def commit_each(self, database: Database, ratings: Sequence[NewRating]) -> list[SavedRating]:
        """As `upsert_each`, in a transaction of its own."""

    def upsert_each(
        self, connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None
    ) -> list[SavedRating]:
        """What became of each rating."""

    def upsert_many(
        self, connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None
    ) -> BatchCounts:
        """How many had each outcome; faster."""


def upsert_for(bind: Connection | Engine) -> Upsert:
    return upsert_sqlite if is_sqlite(bind) else upsert_postgres


def save_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    """Create or replace ratings, see `Upsert`; of several for one pair only the last counts."""
    return upsert_for(connection).upsert_many(connection, latest_of_each_pair(ratings), now)


def latest_of_each_pair(ratings: Sequence[NewRating]) -> list[NewRating]:
    return list({rating[:2]: rating for rating in ratings}.values())


_RATINGS = (
    select(User.user_id, Item.item_id, Rating.value, Rating.rated_at, Rating.revision)
    .join_from(User, Rating, Rating.user_key == User.user_key)
    .join(Item, Item.item_key == Rating.item_key)
)


def get(connection: Connection, user_id: str, item_id: str) -> AnyRow:
    """One rating with its ids; raises UnknownRating."""
    row = connection.execute(_RATINGS.where(User.user_id == user_id, Item.item_id == item_id)).one_or_none()
    if row is None:
        raise UnknownRating(user_id, item_id)
    return row


def page_of_user(
    connection: Connection, user_id: str, limit: int, cursor: str | None
) -> tuple[Sequence[AnyRow], str | None]:
    """A user's ratings in the order in which their items were created, and the cursor of the next page."""
    query = _RATINGS.add_columns(Rating.item_key).where(User.user_id == user_id, Rating.item_key > key_before(cursor))
    rows = connection.execute(query.order_by(Rating.item_key).limit(limit + 1)).all()
    has_more = len(rows) > limit
    return rows[:limit], cursor_after(rows[limit - 1].item_key) if has_more else None


def remove(connection: Connection, user_id: str, item_id: str) -> int:
    """Delete one rating and leave its tombstone; returns the new revision or raises UnknownRating."""
    newest = advance(connection, "ratings", 1)
    row = connection.execute(
        _RATINGS.with_only_columns(Rating.user_key, Rating.item_key).where(
            User.user_id == user_id, Item.item_id == item_id
        )
    ).one_or_none()
    if row is None:
        raise UnknownRating(user_id, item_id)
    connection.execute(delete(Rating).filter_by(**row._asdict()))
    connection.execute(insert(DeletedRating).values(**row._asdict(), revision=newest))
    advance(connection, "n_ratings", -1)
    return newest


def count_changes_since(connection: Connection, since_revision: int) -> int:
    """Ratings created, replaced or deleted after a revision: each took one number."""
    return max(0, revision(connection, "ratings") - since_revision)


def totals(connection: Connection) -> Totals:
    """How many there are, from counters that every write maintains; never scans a table."""
    names = ("n_ratings", "n_users", "n_items")
    counts = dict(connection.execute(select(Counter.name, Counter.value).where(Counter.name.in_(names))).all())
    return Totals(*(counts[name] for name in names))
