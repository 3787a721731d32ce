"""Statements about many ratings at once, in the words of each database.

A rating is addressed by its pair, `user_key << 32 | item_key`, so that any number of them is one parameter.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select

from app.database import driver, microseconds_of, peek_revision, utc_now
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
_LOCK_POSTGRESQL = """
    SELECT value, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    FROM counters WHERE name = 'ratings' FOR UPDATE"""
_KEYS_SQLITE = """
    SELECT (SELECT json_group_object(user_id, user_key) FROM users
            WHERE user_id IN (SELECT value FROM json_each(?))),
           (SELECT json_group_object(item_id, item_key) FROM items
            WHERE item_id IN (SELECT value FROM json_each(?)))"""
_KEYS_POSTGRESQL = """
    SELECT (SELECT json_object_agg(user_id, user_key) FROM users
            WHERE user_id = ANY (ARRAY (SELECT json_array_elements_text(%s::json)))),
           (SELECT json_object_agg(item_id, item_key) FROM items
            WHERE item_id = ANY (ARRAY (SELECT json_array_elements_text(%s::json))))"""
_UPSERT_SQLITE = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_FORGET_SQLITE = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_COUNT_SQLITE = "UPDATE counters SET value = value + ? WHERE name = ?"
# One statement, so that the server is asked once: the parts do not see each other, and need not.
_UPSERT_POSTGRESQL = """
    WITH given AS (
        SELECT * FROM unnest(%s::int[], %s::int[], %s::float8[], %s::bigint[], %s::bigint[])
                      AS given (user_key, item_key, value, rated_at, revision)
    ), written AS (
        INSERT INTO ratings (user_key, item_key, value, rated_at, revision) SELECT * FROM given
        ON CONFLICT (user_key, item_key) DO UPDATE
        SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision
    ), rated_again AS (
        DELETE FROM deleted_ratings AS deleted USING given
        WHERE deleted.user_key = given.user_key AND deleted.item_key = given.item_key
    )
    UPDATE counters SET value = value + CASE name WHEN 'ratings' THEN %s ELSE %s END
    WHERE name IN ('ratings', 'n_ratings')"""


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def user_keys_of(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """The keys of those ids that have a user."""
    return keys_by_id(connection, "user", user_ids)


class Beginning(NamedTuple):
    """What a writer finds when its turn comes: times in microseconds since 1970, ids that are not there left out."""

    revision: int
    clock_us: int
    user_keys: dict[str, int]
    item_keys: dict[str, int]


def take_turn(connection: Connection, user_ids: Collection[str], item_ids: Collection[str]) -> Beginning:
    """Waits for the writers' turn, which lasts until the commit, and looks up the keys."""
    given = (json.dumps(list(user_ids)), json.dumps(list(item_ids)))
    with driver(connection) as raw:
        if is_sqlite(connection):  # the transaction holds the file's lock since it began
            users, items = map(json.loads, raw.execute(_KEYS_SQLITE, given).fetchone())
            return Beginning(peek_revision(connection, "ratings"), microseconds_of(utc_now()), users, items)
        # Two statements: the second looks at the data as they are when the first has the lock.
        revision, clock_us = raw.execute(_LOCK_POSTGRESQL).fetchone()
        users, items = raw.execute(_KEYS_POSTGRESQL, given).fetchone()
    return Beginning(revision, clock_us, users or {}, items or {})


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
            packed = raw.cursor(binary=True).execute(_STORED_POSTGRESQL, (_array(pairs[order]),)).fetchone()[0]
            found = np.frombuffer(packed or b"", _STORED_ROW.newbyteorder(">")).astype(_STORED_ROW)
    return StoredRatings(order[found["place"]], found["value"], found["rated_us"])


def upsert(connection: Connection, rows: RatingRows, is_new: npt.NDArray[np.bool_]) -> None:
    """Insert or replace, and count; sorted by key first, which is what the table's pages like best."""
    order = np.lexsort((rows.item_keys, rows.user_keys))
    n_changed, n_new = order.size, int(is_new.sum())
    with driver(connection) as raw:
        if not is_sqlite(connection):
            raw.execute(_UPSERT_POSTGRESQL, (*(_array(column[order]) for column in rows), n_changed, n_new))
            return
        columns = [column[order].tolist() for column in rows]
        raw.executemany(_UPSERT_SQLITE, zip(*columns, strict=True))
        if n_new and raw.execute("SELECT EXISTS (SELECT 1 FROM deleted_ratings)").fetchone()[0]:
            raw.executemany(_FORGET_SQLITE, zip(*columns[:2], strict=True))
        raw.executemany(_COUNT_SQLITE, [(n_changed, "ratings"), (n_new, "n_ratings")])


def _array(column: npt.NDArray[Any]) -> str:
    """A PostgreSQL array in its own writing; psycopg would look at every number one by one."""
    return "{" + json.dumps(column.tolist())[1:-1] + "}"
