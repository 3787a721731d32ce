"""Statements about many ratings at once, in the words of each database.

A rating is addressed by its pair, `user_key << 32 | item_key`, so that any number of them is one parameter.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert

from app.db.connections import driver, is_sqlite
from app.db.ids import id_column
from app.db.revisions import peek_revision
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
    SELECT before, n_changed, n_new, each_written FROM write_many_ratings(
        string_to_array(%s, E'\\n'), string_to_array(%s, E'\\n'), %s::float8[], %s::bigint[], %s::bigint, %s)"""
_WRITTEN_ROW = np.dtype([("rated_us", ">i8"), ("change", ">i8")])


class Written(NamedTuple):
    """What became of ratings: their times as stored now, and 0, 1 or 2 for unchanged, updated, created.

    `before` is the newest revision before them; each that changed took the next one.
    """

    before: int
    rated_us: npt.NDArray[np.int64]
    change: npt.NDArray[np.int64]


class Counted(NamedTuple):
    """The newest revision before ratings, and how many of them changed something, or are new, which is a change."""

    before: int
    n_changed: int
    n_new: int


Row = tuple[str, str, float, int | None]


def write_each(connection: Connection, ratings: Collection[Row], now_us: int | None) -> Written:
    """Everything that a write of ratings of different pairs is, in one question to PostgreSQL."""
    before, _, _, packed = _write(connection, ratings, now_us, wants_each=True)
    written = np.frombuffer(packed or b"", _WRITTEN_ROW)
    return Written(before, written["rated_us"].astype(np.int64), written["change"].astype(np.int64))


def write_many(connection: Connection, ratings: Collection[Row], now_us: int | None) -> Counted:
    """The same where nobody asks what became of each."""
    return Counted(*_write(connection, ratings, now_us, wants_each=False)[:3])


def _write(connection: Connection, ratings: Collection[Row], now_us: int | None, *, wants_each: bool) -> Any:
    users, items, values, times = zip(*ratings, strict=True) if ratings else ((),) * 4
    rated_us = None if set(times) == {None} else _array(times)
    given = (_lines(users), _lines(items), _array(values), rated_us, now_us, wants_each)
    with driver(connection) as raw:
        return raw.cursor(binary=True).execute(_WRITE_POSTGRESQL, given).fetchone()


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


def add_users(connection: Connection, user_ids: Collection[str]) -> dict[str, int]:
    """Keys of users that do not exist yet; the ratings counter must be locked."""
    added = insert(User).from_select(["user_id"], id_column(connection, user_ids))
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


def _lines(ids: Sequence[str]) -> str:
    """Ids as one text, which PostgreSQL takes apart the fastest: no line ends within an id, which is printable."""
    text = "\n".join(ids)
    if text.count("\n") >= max(len(ids), 1):
        raise ValueError("an id holds the end of a line")
    return text


def _array(column: Sequence[float | None]) -> str:
    """A PostgreSQL array in its own writing; psycopg would look at every number one by one."""
    return "{" + json.dumps(column)[1:-1] + "}"
