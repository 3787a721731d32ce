"""Statements about many ratings at once, in the words of each database.

A rating is addressed by its pair, `user_key << 32 | item_key`, so that any number of them is one parameter.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert, select, text

from app.database import driver
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
_UPSERT_SQLITE = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_UPSERT_POSTGRESQL = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision)
    SELECT * FROM unnest(CAST(:user_keys AS int[]), CAST(:item_keys AS int[]), CAST(:values AS float8[]),
                         CAST(:rated_us AS bigint[]), CAST(:revisions AS bigint[]))
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_FORGET_SQLITE = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_FORGET_POSTGRESQL = """
    DELETE FROM deleted_ratings USING unnest(CAST(:pairs AS bigint[])) AS given (pair)
    WHERE user_key = CAST(given.pair >> 32 AS int) AND item_key = CAST(given.pair & 4294967295 AS int)"""


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def user_keys_of(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """The keys of those ids that have a user."""
    return keys_by_id(connection, "user", user_ids)


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


def upsert(connection: Connection, rows: RatingRows) -> None:
    """Insert or replace; sorted by key first, which is what the table's pages like best."""
    order = np.lexsort((rows.item_keys, rows.user_keys))
    if is_sqlite(connection):
        columns = [column[order].tolist() for column in rows]
        connection.exec_driver_sql(_UPSERT_SQLITE, list(zip(*columns, strict=True)))
    else:
        arrays = {name: _array(column[order]) for name, column in rows._asdict().items()}
        connection.execute(text(_UPSERT_POSTGRESQL), arrays)


def forget_tombstones(connection: Connection, pairs: Pairs) -> None:
    """The pairs are rated again."""
    if not connection.execute(text("SELECT EXISTS (SELECT 1 FROM deleted_ratings)")).scalar_one():
        return
    if is_sqlite(connection):
        keys = zip((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist(), strict=True)
        connection.exec_driver_sql(_FORGET_SQLITE, list(keys))
    else:
        connection.execute(text(_FORGET_POSTGRESQL), {"pairs": _array(pairs)})


def _array(column: npt.NDArray[Any]) -> str:
    """A PostgreSQL array in its own writing; psycopg would look at every number one by one."""
    return "{" + json.dumps(column.tolist())[1:-1] + "}"
