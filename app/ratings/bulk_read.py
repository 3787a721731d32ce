"""All ratings, or all changes since a revision, as arrays for training.

Each call reads one state of the data, however long it takes and whatever is written meanwhile.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, text, tuple_

from app.db.connections import driver, is_sqlite
from app.db.revisions import revision
from app.ratings.models import Rating

DELETED = np.float32(np.inf)
"""The value of a change that deleted a rating; stored ratings are finite."""

# PostgreSQL packs many rows into one value, because psycopg's cost is per row.
_PAIR = "int8send(user_key::int8 << 32 | item_key)"
_PACKED_PAGES = f"""
    SELECT string_agg({_PAIR} || float4send(value::real), '') FROM ratings
    WHERE ctid >= %s::tid AND ctid < %s::tid"""  # noqa: S608
_PACKED_PAIR = np.dtype([("pair", ">i8"), ("value", ">f4")])
_PACKED_CHANGES = f"""
    SELECT string_agg({_PAIR} || float4send(value) || int8send(revision), '') FROM (
        SELECT user_key, item_key, value::real, revision FROM ratings WHERE revision > %s UNION ALL
        SELECT user_key, item_key, 'Infinity', revision FROM deleted_ratings WHERE revision > %s) AS changes"""  # noqa: S608
_PACKED_CHANGE = np.dtype([*_PACKED_PAIR.descr, ("revision", ">i8")])
_COSTS = ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_index_scan_size")
_PARALLEL = "; ".join(f"SET LOCAL {name} TO 0" for name in _COSTS)
"""Makes the planner use several processes to look up and pack the changes, which halves the time."""
_NOT_PARALLEL = "; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _COSTS)
_CHUNK_PAGES = 2048
_READERS = 2
"""Connections that read from PostgreSQL at once: packing rows keeps one processor of the server busy for each."""

_SQLITE_RATINGS = "SELECT user_key, item_key, value FROM ratings"
_SQLITE_RATING = np.dtype([("user_key", "i4"), ("item_key", "i4"), ("value", "f4")])
_SQLITE_CHANGES = """
    SELECT user_key, item_key, value, revision FROM ratings WHERE revision > ?1 UNION ALL
    SELECT user_key, item_key, 9e999, revision FROM deleted_ratings WHERE revision > ?1"""
_SQLITE_CHANGE = np.dtype([*_SQLITE_RATING.descr, ("revision", "i8")])


@dataclass(frozen=True, slots=True)
class AllRatings:
    """Every rating, in no particular order, as of one revision: 12 bytes each."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """The ratings that changed after one revision, up to another, each pair once; DELETED for those that are gone."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    revisions: npt.NDArray[np.int64]
    revision: int

    def __len__(self) -> int:
        return int(self.values.size)

    def at(self, indices: npt.NDArray[np.int64]) -> Changes:
        """The changes at these indices, in their order."""
        keys = self.user_keys[indices], self.item_keys[indices]
        return Changes(*keys, self.values[indices], self.revisions[indices], self.revision)


def hold_snapshot(connection: Connection) -> None:
    """See one state of the data until the transaction ends; must be the first statement of the transaction.

    An SQLite transaction does so anyway.
    """
    if not is_sqlite(connection):
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def load_all(connection: Connection) -> AllRatings:
    """Every rating; must be the first read in its transaction.

    Memory at the peak: 24 bytes a rating on SQLite, 12 and some megabytes on PostgreSQL.
    """
    hold_snapshot(connection)
    newest = revision(connection, "ratings")
    if not is_sqlite(connection):
        return AllRatings(*_read_pages(connection), newest)
    with driver(connection) as raw:
        rows = np.fromiter(raw.execute(_SQLITE_RATINGS), _SQLITE_RATING)
    return AllRatings(rows["user_key"].copy(), rows["item_key"].copy(), rows["value"].copy(), newest)


def changes_since(connection: Connection, since_revision: int) -> Changes:
    """Ratings created, replaced or deleted after a revision; needs a transaction with `hold_snapshot`."""
    newest = revision(connection, "ratings")
    if is_sqlite(connection):
        with driver(connection) as raw:
            rows = np.fromiter(raw.execute(_SQLITE_CHANGES, (since_revision,)), _SQLITE_CHANGE)
        keys = rows["user_key"].copy(), rows["item_key"].copy()
        return Changes(*keys, rows["value"].copy(), rows["revision"].copy(), newest)
    with driver(connection) as raw, raw.cursor(binary=True) as cursor:
        raw.execute(_PARALLEL)
        cursor.execute(_PACKED_CHANGES, (since_revision, since_revision))
        rows = np.frombuffer(cursor.fetchone()[0] or b"", _PACKED_CHANGE)
        raw.execute(_NOT_PARALLEL)
    keys = _keys_of_pairs(rows["pair"])
    return Changes(*keys, rows["value"].astype(np.float32), rows["revision"].astype(np.int64), newest)


def values_of_pairs(
    connection: Connection, user_keys: npt.NDArray[np.int64], item_keys: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The value of each of a few pairs; NaN where there is no rating."""
    pairs = list(zip(user_keys.tolist(), item_keys.tolist(), strict=True))
    query = select(Rating.user_key, Rating.item_key, Rating.value)
    rows = connection.execute(query.where(tuple_(Rating.user_key, Rating.item_key).in_(pairs)))
    stored = {(user_key, item_key): value for user_key, item_key, value in rows}
    return np.array([stored.get(pair, np.nan) for pair in pairs], np.float32)


def _keys_of_pairs(pairs: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    native = pairs.astype(np.int64)
    return (native >> 32).astype(np.int32), (native & 0xFFFFFFFF).astype(np.int32)


_Columns = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.float32]]


class _ColumnWriter:
    """User keys, item keys and values that several readers append to, in whatever order their chunks arrive."""

    def __init__(self, capacity: int) -> None:
        self._columns = _empty_columns(capacity)
        self._n = 0
        self._lock = threading.Lock()

    @property
    def columns(self) -> _Columns:
        users, items, values = self._columns
        return users[: self._n], items[: self._n], values[: self._n]

    def append(self, rows: npt.NDArray[Any]) -> None:
        with self._lock:
            start, self._n = self._n, self._n + rows.size
            if self._n > self._columns[0].size:
                self._grow(start)
            users, items, values = self.columns
            users[start:], items[start:] = _keys_of_pairs(rows["pair"])
            values[start:] = rows["value"]

    def _grow(self, n_used: int) -> None:
        larger = _empty_columns(self._n + self._n // 4)
        for new, old in zip(larger, self._columns, strict=True):
            new[:n_used] = old[:n_used]
        self._columns = larger


def _empty_columns(n: int) -> _Columns:
    return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)


def _read_pages(connection: Connection) -> _Columns:
    """PostgreSQL: ranges of table pages, read by several connections that share one snapshot."""
    n_ratings = connection.execute(text("SELECT value FROM counters WHERE name = 'n_ratings'")).scalar_one()
    n_pages = connection.execute(
        text("SELECT pg_relation_size('ratings') / current_setting('block_size')::int")
    ).scalar_one()
    token = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    writer, first_pages = _ColumnWriter(n_ratings), count(0, _CHUNK_PAGES)

    def read(reader: Connection) -> None:
        with driver(reader) as raw, raw.cursor(binary=True) as cursor:
            while (first := next(first_pages)) < n_pages:
                cursor.execute(_PACKED_PAGES, (f"({first},0)", f"({first + _CHUNK_PAGES},0)"))
                writer.append(np.frombuffer(cursor.fetchone()[0] or b"", _PACKED_PAIR))

    def read_on_another_connection() -> None:
        with connection.engine.connect() as another:
            hold_snapshot(another)
            another.execute(text(f"SET TRANSACTION SNAPSHOT '{token}'"))
            read(another)

    n_more = _READERS - 1 if n_pages > _CHUNK_PAGES else 0
    with ThreadPoolExecutor(max(1, n_more)) as pool:
        reading = [pool.submit(read_on_another_connection) for _ in range(n_more)]
        read(connection)
        for each in reading:
            each.result()
    return writer.columns
