"""Statements on users and ratings. Functions take a connection and never commit.

Writers lock the ratings counter first, so they run one after the other and revisions become visible in the
order of their numbers. Times are whole microseconds since 1970 where many ratings are handled at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, literal, select

from app.db.connections import driver, is_sqlite
from app.db.ids import id_column, keys_of_ids
from app.db.paging import cursor_after, key_before
from app.db.revisions import Counter, advance, revision
from app.db.tables import microseconds_of, time_of, utc_now
from app.errors import NotFound
from app.items.models import Item
from app.items.store import ensure_items
from app.ratings import upsert_postgres, upsert_sqlite
from app.ratings.models import DeletedRating, Rating, User

Outcome = Literal["created", "updated", "unchanged"]
_OUTCOMES: tuple[Outcome, ...] = ("unchanged", "updated", "created")
Keys = npt.NDArray[np.int64]
AnyRow = Row[*tuple[Any, ...]]

_ABSENT = np.iinfo(np.int64).min  # stands for "no time given" in arrays of times


class UnknownUser(NotFound):
    def __init__(self, user_id: str) -> None:
        super().__init__(f"user {user_id!r} does not exist")
        self.user_id = user_id


class UnknownRating(NotFound):
    def __init__(self, user_id: str, item_id: str) -> None:
        super().__init__(f"user {user_id!r} has not rated item {item_id!r}")
        self.user_id = user_id
        self.item_id = item_id


class NewRating(NamedTuple):
    """A rating to store; `rated_us` is in microseconds since 1970, None stands for the time of the write."""

    user_id: str
    item_id: str
    value: float
    rated_us: int | None = None


@dataclass(frozen=True, slots=True)
class SavedRating:
    """A rating as it is stored now, what saving it did, and the newest revision."""

    user_id: str
    item_id: str
    value: float
    rated_at: datetime
    outcome: Outcome
    revision: int


class BatchCounts(NamedTuple):
    """What became of the pairs of a batch; `revision` is the ratings counter after it."""

    created: int
    updated: int
    unchanged: int
    revision: int


class Totals(NamedTuple):
    n_ratings: int
    n_users: int
    n_items: int


class StateOfRatings(NamedTuple):
    """Equal states of one user are of equal ratings.

    Whatever is recorded takes a new revision, so that what has come or changed raises `newest`; where it stayed,
    ratings can only have gone, and then they are fewer. Whoever is erased and comes again has another key.
    """

    user_key: int | None
    n_ratings: int
    newest: int


@dataclass(frozen=True, slots=True)
class UserRatings:
    """What a user rated, by item key, and the newest revision of it; nobody has the key None and no ratings."""

    user_key: int | None
    item_keys: Keys
    values: npt.NDArray[np.float64]
    newest: int

    @property
    def state(self) -> StateOfRatings:
        return StateOfRatings(self.user_key, self.values.size, self.newest)


NO_RATINGS = UserRatings(None, np.zeros(0, np.int64), np.zeros(0), 0)

_LOOK_UP = select(
    User.user_key,
    Item.item_key,
    Rating.value,
).select_from(
    select(literal(1).label("one"))
    .subquery()
    .outerjoin(User, User.user_id == bindparam("user_id"))
    .outerjoin(Item, Item.item_id == bindparam("item_id"))
    .outerjoin(Rating, and_(Rating.user_key == User.user_key, Rating.item_key == Item.item_key))
)
_GET = (
    select(User.user_id, Item.item_id, Rating.value, Rating.rated_at, Rating.revision)
    .join_from(User, Rating, Rating.user_key == User.user_key)
    .join(Item, Item.item_key == Rating.item_key)
)


def save(
    connection: Connection, user_id: str, item_id: str, value: float, rated_at: datetime | None, now: datetime
) -> SavedRating:
    """Record or replace one rating. The same value with no time or the same time changes nothing."""
    rated_us = None if rated_at is None else microseconds_of(rated_at)
    return save_each(connection, [NewRating(user_id, item_id, value, rated_us)], now)[0]


def save_each(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> list[SavedRating]:
    """As `save` would one by one, in this order; no two ratings of one pair. `now` defaults to the database's clock."""
    if len(ratings) == 1 and (saved := _write_one(connection, ratings[0], now)):
        return [saved]
    written = _write_each(connection, ratings, now)
    newest = (written.before + np.cumsum(written.change > 0)).tolist()
    rated_us, change = written.rated_us.tolist(), written.change.tolist()
    return [
        SavedRating(rating.user_id, rating.item_id, rating.value, time_of(time), _OUTCOMES[place], revision)
        for rating, time, place, revision in zip(ratings, rated_us, change, newest, strict=True)
    ]


def _write_one(connection: Connection, rating: NewRating, now: datetime | None) -> SavedRating | None:
    """The shortest way of one rating; None where it is not open."""
    if is_sqlite(connection):
        written = upsert_sqlite.write_in_file(connection, rating, microseconds_of(now or utc_now()))
    else:
        written = upsert_sqlite.write_on_server(connection, rating, None if now is None else microseconds_of(now))
    if written is None:
        return None
    revision = written.before + (written.change > 0)
    time = time_of(written.rated_us)
    return SavedRating(rating.user_id, rating.item_id, rating.value, time, _OUTCOMES[written.change], revision)


def save_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    """Record or replace many ratings as `save` would one by one; of several for one pair only the last counts."""
    latest = list({rating[:2]: rating for rating in ratings}.values())
    if is_sqlite(connection):
        written = _write_in_steps(connection, latest, microseconds_of(now or utc_now()))
        counted = upsert_postgres.Counted(
            written.before, int((written.change > 0).sum()), int((written.change == 2).sum())
        )
    else:
        counted = upsert_postgres.write_many(connection, latest, None if now is None else microseconds_of(now))
    before, n_changed, n_new = counted
    return BatchCounts(n_new, n_changed - n_new, len(latest) - n_changed, before + n_changed)


def _write_each(connection: Connection, ratings: Sequence[NewRating], now: datetime | None) -> upsert_postgres.Written:
    """Saves ratings of different pairs."""
    if is_sqlite(connection):
        return _write_in_steps(connection, ratings, microseconds_of(now or utc_now()))
    return upsert_postgres.write_each(connection, ratings, None if now is None else microseconds_of(now))


def _write_in_steps(connection: Connection, ratings: Sequence[NewRating], now_us: int) -> upsert_postgres.Written:
    """As `upsert_postgres.write_each`, on SQLite, which is asked without a way to a server."""
    user_ids = dict.fromkeys(rating.user_id for rating in ratings)
    item_ids = dict.fromkeys(rating.item_id for rating in ratings)
    found = upsert_postgres.look_up(connection, user_ids, item_ids)
    users, items = _with_new_ones(connection, found, user_ids, item_ids)
    n, before = len(ratings), found.revision
    user_keys = np.fromiter((users[rating.user_id] for rating in ratings), np.int64, n)
    item_keys = np.fromiter((items[rating.item_id] for rating in ratings), np.int64, n)
    values = np.fromiter((rating.value for rating in ratings), np.float64, n)
    given_us = (_ABSENT if rating.rated_us is None else rating.rated_us for rating in ratings)
    rated_us = np.fromiter(given_us, np.int64, n)
    is_new, is_changed = _compare(
        upsert_postgres.stored_ratings(connection, user_keys << 32 | item_keys), values, rated_us
    )
    rated_us[rated_us == _ABSENT] = now_us
    rows = upsert_postgres.RatingRows(user_keys, item_keys, values, rated_us, before + np.cumsum(is_changed))
    if is_changed.any():
        upsert_postgres.upsert(connection, rows.where(is_changed), is_new[is_changed])
    return upsert_postgres.Written(before, rated_us, is_changed.astype(np.int64) + is_new)


def _with_new_ones(
    connection: Connection, found: upsert_postgres.Beginning, user_ids: Collection[str], item_ids: Collection[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """The key of each user and item; whoever is new is made."""
    users, items = found.user_keys, found.item_keys
    if new_users := [user_id for user_id in user_ids if user_id not in users]:
        users = users | upsert_postgres.add_users(connection, new_users)
        advance(connection, "n_users", len(new_users))
    if new_items := [item_id for item_id in item_ids if item_id not in items]:
        items = items | ensure_items(connection, new_items)
    return users, items


def _compare(
    stored: upsert_postgres.StoredRatings, values: npt.NDArray[np.float64], rated_us: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of the given ratings are new, and which change something; those that do not take their stored time."""
    is_new = np.ones(values.size, bool)
    is_new[stored.places] = False
    given_us = rated_us[stored.places]
    is_same = (stored.values == values[stored.places]) & ((given_us == _ABSENT) | (given_us == stored.rated_us))
    is_changed = np.ones(values.size, bool)
    same = stored.places[is_same]
    is_changed[same] = False
    rated_us[same] = stored.rated_us[is_same]
    return is_new, is_changed


def get(connection: Connection, user_id: str, item_id: str) -> AnyRow:
    """One rating with its ids; raises UnknownRating."""
    row = connection.execute(_GET.where(User.user_id == user_id, Item.item_id == item_id)).one_or_none()
    if row is None:
        raise UnknownRating(user_id, item_id)
    return row


def page_of_user(
    connection: Connection, user_id: str, limit: int, cursor: str | None
) -> tuple[Sequence[AnyRow], str | None]:
    """A user's ratings in the order in which their items came, and the cursor of the next page."""
    wanted = _GET.add_columns(Rating.item_key).where(User.user_id == user_id, Rating.item_key > key_before(cursor))
    rows = connection.execute(wanted.order_by(Rating.item_key).limit(limit + 1)).all()
    has_more = len(rows) > limit
    return rows[:limit], cursor_after(rows[limit - 1].item_key) if has_more else None


def remove(connection: Connection, user_id: str, item_id: str) -> int:
    """Delete one rating and leave its tombstone; returns the new revision or raises UnknownRating."""
    newest = advance(connection, "ratings", 1)
    found = connection.execute(_LOOK_UP, {"user_id": user_id, "item_id": item_id}).one()
    if found.value is None:
        raise UnknownRating(user_id, item_id)
    keys = {"user_key": found.user_key, "item_key": found.item_key}
    connection.execute(delete(Rating).filter_by(**keys))
    connection.execute(insert(DeletedRating).values(**keys, revision=newest))
    advance(connection, "n_ratings", -1)
    return newest


# One row, not one per rating: SQLite's driver gives the GIL away at every row, and gets it back late in a busy process.
# Values go as eighths where all of them are whole then, as those of most scales are: SQLite writes, and NumPy reads,
# whole numbers several times as fast. A product by 8 is exact.
_OF_USER_SQLITE = """
    SELECT users.user_key, group_concat(item_key),
        group_concat(CASE WHEN value * 8 = CAST(value * 8 AS INTEGER) THEN CAST(value * 8 AS INTEGER)
            ELSE value * 8 END),
        max(revision)
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = ?"""
_OF_USER_POSTGRESQL = """
    SELECT users.user_key, string_agg(int8send(item_key), '' ORDER BY item_key),
        string_agg(float8send(value), '' ORDER BY item_key), max(revision)
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = %s GROUP BY users.user_key"""
_STATE_OF_USER = """
    SELECT users.user_key, count(item_key), max(revision)
    FROM users LEFT JOIN ratings ON ratings.user_key = users.user_key WHERE user_id = {} GROUP BY users.user_key"""
_OF_USER_ROW = np.dtype([("user_key", "i8"), ("item_key", "i8"), ("value", "f8"), ("revision", "i8")])


def ratings_of_user(connection: Connection, user_id: str) -> UserRatings:
    """What a user rated. Every recommendation asks this, so it speaks to the driver itself: one statement."""
    on_sqlite = is_sqlite(connection)
    with driver(connection) as raw:
        cursor = raw if on_sqlite else raw.cursor(binary=True)
        row = cursor.execute(_OF_USER_SQLITE if on_sqlite else _OF_USER_POSTGRESQL, (user_id,)).fetchone()
    if row is None or row[0] is None:
        return NO_RATINGS
    user_key, item_keys, values, newest = row
    if newest is None:
        return dataclasses.replace(NO_RATINGS, user_key=user_key)
    if on_sqlite:
        eighths: npt.NDArray[Any] = np.fromstring(values, np.float64 if "." in values else np.int64, sep=",")
        return UserRatings(user_key, np.fromstring(item_keys, np.int64, sep=","), eighths / 8, newest)
    keys, opinions = np.frombuffer(item_keys, ">i8"), np.frombuffer(values, ">f8")
    return UserRatings(user_key, keys.astype(np.int64), opinions.astype(np.float64), newest)


def state_of_user(connection: Connection, user_id: str) -> StateOfRatings:
    """What `ratings_of_user(...).state` would be, for a fifth of the time."""
    on_sqlite = is_sqlite(connection)
    with driver(connection) as raw:
        row = raw.execute(_STATE_OF_USER.format("?" if on_sqlite else "%s"), (user_id,)).fetchone()
    return NO_RATINGS.state if row is None else StateOfRatings(row[0], row[1], row[2] or 0)


def ratings_of_users(connection: Connection, user_ids: Collection[str]) -> dict[str, UserRatings]:
    """What each of the users rated; those who do not exist are left out."""
    keys = keys_of_ids(connection, "user", user_ids)
    wanted = (
        select(Rating.user_key, Rating.item_key, Rating.value, Rating.revision)
        .join(User, User.user_key == Rating.user_key)
        .where(User.user_id.in_(id_column(connection, user_ids)))
        .order_by(Rating.user_key, Rating.item_key)
    )
    rows = np.fromiter(map(tuple, connection.execute(wanted)), _OF_USER_ROW)
    first = np.searchsorted(rows["user_key"], list(keys.values()), "left").tolist()
    last = np.searchsorted(rows["user_key"], list(keys.values()), "right").tolist()
    found = {}
    for (user_id, key), low, high in zip(keys.items(), first, last, strict=True):
        own = rows[low:high]
        newest = int(own["revision"].max()) if own.size else 0
        found[user_id] = UserRatings(key, own["item_key"].copy(), own["value"].copy(), newest)
    return found


def count_changes_since(connection: Connection, since_revision: int) -> int:
    """Ratings created, replaced or deleted after a revision: each took one number."""
    return max(0, revision(connection, "ratings") - since_revision)


def totals(connection: Connection) -> Totals:
    """How many there are; counted as they come and go, never by scanning."""
    names = ("n_ratings", "n_users", "n_items")
    counts = dict(connection.execute(select(Counter.name, Counter.value).where(Counter.name.in_(names))).all())
    return Totals(*(counts[name] for name in names))
