"""Statements about many ratings at once, in the words of each database.

A rating is addressed by its pair, `user_key << 32 | item_key`, so that any number of them is one parameter.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select

from app.database import driver, peek_revision
from app.items.store import Ids, given_ids, keys_by_id
from app.ratings.models import User

Pairs = npt.NDArray[np.int64]


class StoredRatings(NamedTuple):
    """Which of the asked pairs are stored (positions in the question), and with what."""

    places: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    rated_us: npt.NDArray[np.int64]


class RatingRows(NamedTuple):
    """Rows of the ratings table, column by column."""

    user_keys: npt.NDArray[np.int64]
    item_keys: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    rated_us: npt.NDArray[np.int64]
    revisions: npt.NDArray[np.int64]

    def where(self, mask: npt.NDArray[np.bool_]) -> RatingRows:
        """Only the rows at which the mask is true."""
        return RatingRows(
            self.user_keys[mask], self.item_keys[mask], self.values[mask], self.rated_us[mask], self.revisions[mask]
        )


# Both force one look into the primary key per pair: a planner that misjudges their number reads the whole table.
_STORED_SQLITE = """
    SELECT given.key, ratings.value, ratings.rated_at FROM json_each(?) AS given
    CROSS JOIN ratings ON user_key = given.value >> 32 AND item_key = given.value & 4294967295"""
_STORED_POSTGRESQL = """
    SELECT string_agg(int8send(given.place - 1) || float8send(stored.value) || int8send(stored.rated_at), '')
    FROM unnest(%s::bigint[]) WITH ORDINALITY AS given (pair, place)
    CROSS JOIN LATERAL (
        SELECT value, rated_at FROM ratings
        WHERE user_key = (given.pair >> 32)::int AND item_key = (given.pair & 4294967295)::int OFFSET 0
    ) AS stored"""
_STORED_ROW = np.dtype([("place", "i8"), ("value", "f8"), ("rated_us", "i8")])
_KEYS_SQLITE = """
    SELECT (SELECT json_group_object(user_id, user_key) FROM users
            WHERE user_id IN (SELECT value FROM json_each(?))),
           (SELECT json_group_object(item_id, item_key) FROM items
            WHERE item_id IN (SELECT value FROM json_each(?)))"""
_UPSERT_SQLITE = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_FORGET_SQLITE = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_COUNT_SQLITE = "UPDATE counters SET value = value + ? WHERE name = ?"
_WRITE_POSTGRESQL = """
    SELECT before, written FROM write_ratings(
        ARRAY (SELECT json_array_elements_text(%s::json)), ARRAY (SELECT json_array_elements_text(%s::json)),
        %s::float8[], %s::bigint[], %s::bigint)"""
_WRITTEN_ROW = np.dtype([("rated_us", ">i8"), ("change", ">i8")])


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def user_keys_of(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """The keys of those ids that have a user."""
    return keys_by_id(connection, "user", user_ids)


class Written(NamedTuple):
    """What became of ratings: their times as stored now, and 0, 1 or 2 for unchanged, updated, created.

    `before` is the newest revision before them; each that changed took the next one.
    """

    before: int
    rated_us: npt.NDArray[np.int64]
    change: npt.NDArray[np.int64]


def write_at_once(
    connection: Connection, ratings: Collection[tuple[str, str, float, int | None]], now_us: int | None
) -> Written:
    """Everything that a write of ratings of different pairs is, in one question to PostgreSQL."""
    users, items, values, times = zip(*ratings, strict=True) if ratings else ((),) * 4
    given = (json.dumps(users), json.dumps(items), _array(values), _array(times), now_us)
    with driver(connection) as raw:
        before, packed = raw.cursor(binary=True).execute(_WRITE_POSTGRESQL, given).fetchone()
    written = np.frombuffer(packed or b"", _WRITTEN_ROW)
    return Written(before, written["rated_us"].astype(np.int64), written["change"].astype(np.int64))


class Beginning(NamedTuple):
    """What a writer on SQLite finds when its turn comes: ids that are not there are left out."""

    revision: int
    user_keys: dict[str, int]
    item_keys: dict[str, int]


def look_up(connection: Connection, user_ids: Collection[str], item_ids: Collection[str]) -> Beginning:
    """The keys and the newest revision; the transaction holds the file's lock since it began."""
    with driver(connection) as raw:
        found = raw.execute(_KEYS_SQLITE, (json.dumps(list(user_ids)), json.dumps(list(item_ids)))).fetchone()
    users, items = map(json.loads, found)
    return Beginning(peek_revision(connection, "ratings"), users, items)


def user_ids(connection: Connection) -> Ids:
    """All users, those without ratings too."""
    rows = connection.execute(select(User.user_key, User.user_id).order_by(User.user_key)).all()
    return Ids(np.fromiter((row[0] for row in rows), np.int64, len(rows)), [row[1] for row in rows])


def add_users(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """Keys of users that do not exist yet; the ratings counter must be locked."""
    added = insert(User).from_select(["user_id"], given_ids(connection, user_ids))
    return dict(connection.execute(added.returning(User.user_id, User.user_key)).all())


def stored_ratings(connection: Connection, pairs: Pairs) -> StoredRatings:
    """Those of the pairs that have a rating."""
    order = np.argsort(pairs)  # neighbours in the question are neighbours in the table
    with driver(connection) as raw:
        if is_sqlite(connection):
            found = np.fromiter(raw.execute(_STORED_SQLITE, (json.dumps(pairs[order].tolist()),)), _STORED_ROW)
        else:
            given = _array(pairs[order].tolist())
            packed = raw.cursor(binary=True).execute(_STORED_POSTGRESQL, (given,)).fetchone()[0]
            found = np.frombuffer(packed or b"", _STORED_ROW.newbyteorder(">")).astype(_STORED_ROW)
    return StoredRatings(order[found["place"]], found["value"], found["rated_us"])


def upsert(connection: Connection, rows: RatingRows, is_new: npt.NDArray[np.bool_]) -> None:
    """Insert or replace on SQLite, and count; sorted by key first, which is what the table's pages like best."""
    order = np.lexsort((rows.item_keys, rows.user_keys))
    n_changed, n_new = order.size, int(is_new.sum())
    columns = [column[order].tolist() for column in rows]
    with driver(connection) as raw:
        raw.executemany(_UPSERT_SQLITE, zip(*columns, strict=True))
        if n_new and raw.execute("SELECT EXISTS (SELECT 1 FROM deleted_ratings)").fetchone()[0]:
            raw.executemany(_FORGET_SQLITE, zip(*columns[:2], strict=True))
        raw.executemany(_COUNT_SQLITE, [(n_changed, "ratings"), (n_new, "n_ratings")])


def _array(column: Sequence[float | None]) -> str:
    """A PostgreSQL array in its own writing; psycopg would look at every number one by one."""
    return "{" + json.dumps(column)[1:-1] + "}"
