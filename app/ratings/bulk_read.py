"""All ratings at once: as arrays for training, as a digest for comparing stores, as lines for taking them along.

Each reads one state of the data, however long it takes and whatever is written meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, text, tuple_

from app.db.connections import driver, server_that_sorts
from app.db.revisions import revision
from app.items.models import Item
from app.items.store import item_ids
from app.ratings import upsert_postgres
from app.ratings.models import Rating, User
from app.ratings.sqlite_native import Columns, NativeReader, NotNative, open_native
from app.ratings.upsert_postgres import user_ids

log = logging.getLogger(__name__)

ExportFormat = Literal["ndjson", "csv"]

_COLUMNS = ("user_key", "item_key", "value", "rated_at")
_TYPES = ("i4", "i4", "f8", "i8")
_ROW = np.dtype(list(zip(_COLUMNS, _TYPES, strict=True)))
_PACKED_ROW = np.dtype([(name, f">{kind}") for name, kind in zip(_COLUMNS, _TYPES, strict=True)])
_PACKED = "string_agg(int4send(user_key) || int4send(item_key) || float8send(value) || int8send(rated_at), '')"
_PAIR_ROW = np.dtype([("pair", ">i8"), ("value", ">f4")])
_CHANGE_ROW = np.dtype([("pair", ">i8"), ("value", ">f4"), ("revision", ">i8")])
_PAIR = "int8send(user_key::int8 << 32 | item_key)"
_PACKED_PAGES = f"""
    SELECT string_agg({_PAIR} || float4send(value::real), '') FROM ratings
    WHERE ctid >= %s::tid AND ctid < %s::tid"""  # noqa: S608
_PACKED_CHANGES = f"""
    SELECT string_agg({_PAIR} || float4send(value) || int8send(revision), '') FROM (
        SELECT user_key, item_key, value::real, revision FROM ratings WHERE revision > %s UNION ALL
        SELECT user_key, item_key, 'Infinity', revision FROM deleted_ratings WHERE revision > %s) AS changes"""  # noqa: S608
_COSTS = ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_index_scan_size")
_PARALLEL = "; ".join(f"SET LOCAL {name} TO 0" for name in _COSTS)
"""Several of the server's processes look up and pack what has changed: half the time, which the planner doubts."""
_NOT_PARALLEL = "; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _COSTS)
_SQLITE_ROWS = "SELECT user_key, item_key, value FROM ratings"
_SQLITE_CHANGES = """
    SELECT user_key, item_key, value, revision FROM ratings WHERE revision > ?1 UNION ALL
    SELECT user_key, item_key, 9e999, revision FROM deleted_ratings WHERE revision > ?1"""
_FOUND_ROW = np.dtype([("user", "i4"), ("item", "i4"), ("value", "f4")])
_CHANGED_ROW = np.dtype([*_FOUND_ROW.descr, ("revision", "i8")])
_COUNTER = "SELECT value FROM counters WHERE name = '{}'"
_PACKED_BY_USER = f"""
    SELECT packed FROM (SELECT user_key, {_PACKED} AS packed FROM ratings GROUP BY user_key) AS of_user
    JOIN users USING (user_key) ORDER BY user_id COLLATE "C\""""  # noqa: S608
_CHUNK_PAGES = 2048
_READERS = 2
"""Connections that read from PostgreSQL at once: packing rows is work for one processor of the server each."""
_TRIES = 5
DELETED = np.float32(np.inf)
"""The value of a change that took a rating away; ratings are finite."""
_EXPORT_ROWS = 5000
_DIGEST_USERS = 1000

Chunk = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class AllRatings:
    """Every rating, in no particular order, as of one revision: 12 bytes each."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of ratings after one revision, up to another, each pair once; DELETED for those that are gone."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    revisions: npt.NDArray[np.int64]
    revision: int

    def __len__(self) -> int:
        return int(self.values.size)

    def at(self, places: npt.NDArray[np.int64]) -> Changes:
        """Those at these places, in their order."""
        keys = self.user_keys[places], self.item_keys[places]
        return Changes(*keys, self.values[places], self.revisions[places], self.revision)


def hold_snapshot(connection: Connection) -> None:
    """See one state of the data until the transaction ends; nothing may have been read in it before.

    An SQLite transaction does so anyway.
    """
    if not upsert_postgres.is_sqlite(connection):
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def load_all(connection: Connection) -> AllRatings:
    """Every rating, on the fastest path that the drivers have; must be the first thing in its transaction.

    Memory at the peak: 12 bytes a rating, and some megabytes.
    """
    if upsert_postgres.is_sqlite(connection):
        (columns, n), newest = _read_sqlite(connection, _SQLITE_ROWS, ())
    else:
        hold_snapshot(connection)
        newest = revision(connection, "ratings")
        columns, n = _read_postgresql(connection)
    return AllRatings(columns.user_keys[:n], columns.item_keys[:n], columns.values[:n], newest)


def changes_since(connection: Connection, since_revision: int) -> Changes:
    """Ratings created, replaced or deleted after a revision; must see one state of the data (`hold_snapshot`)."""
    if upsert_postgres.is_sqlite(connection):
        (columns, n), newest = _read_sqlite(connection, _SQLITE_CHANGES, (since_revision,))
        keys = columns.user_keys[:n], columns.item_keys[:n]
        return Changes(*keys, columns.values[:n], columns.revisions[:n], newest)
    newest = revision(connection, "ratings")
    with driver(connection) as raw, raw.cursor(binary=True) as cursor:
        raw.execute(_PARALLEL)
        cursor.execute(_PACKED_CHANGES, (since_revision, since_revision))
        rows = np.frombuffer(cursor.fetchone()[0] or b"", _CHANGE_ROW)
        raw.execute(_NOT_PARALLEL)
    users, items = _keys_of_pairs(rows["pair"])
    return Changes(users, items, rows["value"].astype(np.float32), rows["revision"].astype(np.int64), newest)


def _keys_of_pairs(pairs: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    native = pairs.astype(np.int64)
    return (native >> 32).astype(np.int32), (native & 0xFFFFFFFF).astype(np.int32)


_Filled = tuple[Columns, int]
"""Columns, and how many of their places are taken."""


def _read_sqlite(connection: Connection, query: str, parameters: tuple[int, ...]) -> tuple[_Filled, int]:
    """The rows of a query and the revision they are as of, which is that of the connection's transaction.

    A second connection reads, since Python's cannot be called from machine code. Every change of a rating moves the
    counter, so both see the same ratings if they see the same revision; if not, the transaction begins anew.
    """
    path = connection.engine.url.database
    for _ in range(_TRIES if path else 0):
        newest = revision(connection, "ratings")
        try:
            with open_native(str(path)) as reader:
                if reader.number(_COUNTER.format("ratings")) == newest:
                    return _read_natively(reader, query, parameters), newest
        except NotNative as reason:
            log.info("reading ratings by Python's own driver: %s", reason)
            break
        connection.rollback()
    newest = revision(connection, "ratings")
    return _read_by_driver(connection, query, parameters), newest


def _read_natively(reader: NativeReader, query: str, parameters: tuple[int, ...]) -> _Filled:
    room = reader.number(_COUNTER.format("n_ratings"))
    if parameters:
        room = reader.number(_COUNTER.format("ratings")) - parameters[0]
    while True:
        columns = Columns.with_room(max(room, 0) + 1, for_revisions=bool(parameters))
        n = reader.read(query, parameters, columns)
        if n <= room:
            return columns, n
        room = 2 * room + 1


def _read_by_driver(connection: Connection, query: str, parameters: tuple[int, ...]) -> _Filled:
    with driver(connection) as raw:
        rows = np.fromiter(raw.execute(query, parameters), _CHANGED_ROW if parameters else _FOUND_ROW)
    columns = Columns.with_room(rows.size, for_revisions=bool(parameters))
    columns.user_keys[:], columns.item_keys[:], columns.values[:] = rows["user"], rows["item"], rows["value"]
    if parameters:
        columns.revisions[:] = rows["revision"]
    return columns, int(rows.size)


class _Gathering:
    """Columns that several readers fill, in whatever order their chunks come."""

    def __init__(self, room: int) -> None:
        self.columns = Columns.with_room(room)
        self.n = 0
        self._lock = threading.Lock()

    def add(self, rows: npt.NDArray[Any]) -> None:
        with self._lock:
            start, self.n = self.n, self.n + rows.size
            if self.n > self.columns.values.size:
                self._grow(start)
            columns = self.columns
            columns.user_keys[start : self.n], columns.item_keys[start : self.n] = _keys_of_pairs(rows["pair"])
            columns.values[start : self.n] = rows["value"]

    def _grow(self, n_taken: int) -> None:
        larger = Columns.with_room(self.n + self.n // 4)
        for name in ("user_keys", "item_keys", "values"):
            getattr(larger, name)[:n_taken] = getattr(self.columns, name)[:n_taken]
        self.columns = larger


def _read_postgresql(connection: Connection) -> _Filled:
    """Ranges of table pages, each as one packed value: psycopg's cost is by row, and this is one row."""
    n_ratings = connection.execute(text(_COUNTER.format("n_ratings"))).scalar_one()
    n_pages = connection.execute(
        text("SELECT pg_relation_size('ratings') / current_setting('block_size')::int")
    ).scalar_one()
    token = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
    gathering, turn = _Gathering(n_ratings), count(0, _CHUNK_PAGES)

    def read(reader: Connection) -> None:
        with driver(reader) as raw, raw.cursor(binary=True) as cursor:
            while (first := next(turn)) < n_pages:
                cursor.execute(_PACKED_PAGES, (f"({first},0)", f"({first + _CHUNK_PAGES},0)"))
                gathering.add(np.frombuffer(cursor.fetchone()[0] or b"", _PAIR_ROW))

    def read_beside() -> None:
        with connection.engine.connect() as beside:
            hold_snapshot(beside)
            beside.execute(text(f"SET TRANSACTION SNAPSHOT '{token}'"))
            read(beside)

    with ThreadPoolExecutor(max(1, _READERS - 1)) as pool:
        others = [pool.submit(read_beside) for _ in range(_READERS - 1 if n_pages > _CHUNK_PAGES else 0)]
        read(connection)
        for other in others:
            other.result()
    return gathering.columns, gathering.n


def ids_of_keys(connection: Connection, kind: Literal["user", "item"], keys: Sequence[int]) -> dict[int, str]:
    """The outside id of each key that is there."""
    given = "IN (SELECT value FROM json_each(?))"
    if not upsert_postgres.is_sqlite(connection):
        given = "= ANY (ARRAY (SELECT json_array_elements_text(%s::json)::int))"
    wanted = f"SELECT {kind}_key, {kind}_id FROM {kind}s WHERE {kind}_key {given}"  # noqa: S608
    with driver(connection) as raw:
        return dict(raw.execute(wanted, (json.dumps(list(keys)),)).fetchall())


def ratings_digest(connection: Connection) -> str:
    """SHA-256 over all ratings in the order of their outside ids: equal stores, equal digests.

    By user in code-point order: the user id, the number of ratings, the item ids in code-point order, their
    values (little-endian float64) and their times (little-endian int64 microseconds). Memory: the ids, and the
    ratings of a thousand users. Must be the first thing in its transaction.
    """
    hold_snapshot(connection)
    return digest_of_state(connection)


def digest_of_state(connection: Connection) -> str:
    """The same for a transaction that sees one state of the data already."""
    users, items = user_ids(connection), item_ids(connection)
    item_rank, id_of_rank = _ranks(items.keys, items.ids)
    user_rank, id_of_user_rank = _ranks(users.keys, users.ids)
    digest = hashlib.sha256()
    is_sqlite = upsert_postgres.is_sqlite(connection)
    keys_in_order = users.keys[np.argsort(user_rank[users.keys], kind="stable")]
    parts = _parts_by_key(connection, keys_in_order) if is_sqlite else _parts_by_user(connection)
    for ratings in parts:
        user, item = user_rank[ratings["user_key"]], item_rank[ratings["item_key"]]
        order = np.lexsort((item, user))
        _digest_users(digest.update, ratings[order], user[order], item[order], id_of_user_rank, id_of_rank)
    return digest.hexdigest()


def _ranks(keys: npt.NDArray[np.int64], ids: list[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The place of each key among the sorted ids, by key, and the sorted ids."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    ranks = np.zeros(int(keys.max(initial=0)) + 1, np.int64)
    ranks[keys[order]] = np.arange(len(ids))
    return ranks, [ids[place] for place in order]


def _parts_by_key(connection: Connection, user_keys: npt.NDArray[np.int64]) -> Iterator[Chunk]:
    """Ratings of a thousand of these users after the other, as SQLite keeps them: those of a user side by side."""
    wanted = (
        "SELECT user_key, item_key, ratings.value, rated_at FROM json_each(?) AS given"
        " CROSS JOIN ratings ON user_key = given.value"
    )
    for first in range(0, user_keys.size, _DIGEST_USERS):
        keys = json.dumps(user_keys[first : first + _DIGEST_USERS].tolist())
        with driver(connection) as raw:
            yield np.fromiter(raw.execute(wanted, (keys,)), _ROW)


def _parts_by_user(connection: Connection) -> Iterator[Chunk]:
    """The same, of a server, whose table lies in the order of arrival: by user, all of it was read every time."""
    with server_that_sorts(connection) as raw, raw.cursor("by_user", binary=True) as cursor:
        cursor.execute(_PACKED_BY_USER)
        while rows := cursor.fetchmany(_DIGEST_USERS):
            yield np.frombuffer(b"".join(packed for (packed,) in rows), _PACKED_ROW).astype(_ROW)


def _digest_users(
    add: Callable[[bytes], object],
    ratings: Chunk,
    user: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    user_ids: list[str],
    item_ids: list[str],
) -> None:
    """`ratings`, and the ranks of their users and items, in the order of both ranks."""
    ends = np.flatnonzero(np.diff(user, append=-1)) + 1
    values, times = ratings["value"].astype("<f8"), ratings["rated_at"].astype("<i8")
    first = 0
    for last in ends.tolist():
        ids = "\n".join([user_ids[user[first]], str(last - first), *(item_ids[i] for i in item[first:last].tolist())])
        add(ids.encode())
        add(values[first:last].tobytes())
        add(times[first:last].tobytes())
        first = last


def export(connection: Connection, file_format: ExportFormat) -> Iterator[bytes]:
    """Every rating as lines that an import understands, in blocks; must be the first thing in its transaction."""
    hold_snapshot(connection)
    if file_format == "csv":
        yield b"user_id,item_id,value,rated_at\n"
    line, quoted = (_CSV_LINE, _quoted_for_csv) if file_format == "csv" else (_NDJSON_LINE, _quoted_for_json)
    last = (0, 0)
    while rows := _export_page(connection, last):
        last = rows[-1][0], rows[-1][1]
        yield "".join(
            [
                line.format(quoted(user_id), quoted(item_id), value, rated_at.isoformat().removesuffix("+00:00"))
                for _, _, user_id, item_id, value, rated_at in rows
            ]
        ).encode()


_CSV_LINE = "{},{},{!r},{}Z\n"
_NDJSON_LINE = '{{"user_id":{},"item_id":{},"value":{!r},"rated_at":"{}Z"}}\n'


def _quoted_for_csv(outside_id: str) -> str:
    if '"' in outside_id or "," in outside_id or outside_id != outside_id.strip():
        return '"' + outside_id.replace('"', '""') + '"'
    return outside_id


def _quoted_for_json(outside_id: str) -> str:
    return json.dumps(outside_id, ensure_ascii=False)


def _export_page(connection: Connection, after: tuple[int, int]) -> Any:
    page = (
        select(Rating.__table__)
        .where(tuple_(Rating.user_key, Rating.item_key) > tuple_(*after))
        .order_by(Rating.user_key, Rating.item_key)
        .limit(_EXPORT_ROWS)
        .subquery()
    )
    wanted = (
        select(page.c.user_key, page.c.item_key, User.user_id, Item.item_id, page.c.value, page.c.rated_at)
        .join(User, User.user_key == page.c.user_key)
        .join(Item, Item.item_key == page.c.item_key)
        .order_by(page.c.user_key, page.c.item_key)
    )
    return connection.execute(wanted).all()
