"""All ratings at once: as arrays for training, as a digest for comparing stores, as lines for taking them along.

Each reads one state of the data, however long it takes and whatever is written meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, text, tuple_

from app.database import revision
from app.items.models import Item
from app.items.store import item_ids
from app.ratings import set_wise
from app.ratings.models import Rating, User
from app.ratings.set_wise import user_ids

ExportFormat = Literal["ndjson", "csv"]

_COLUMNS = ("user_key", "item_key", "value", "rated_at")
_TYPES = ("i4", "i4", "f8", "i8")
_ROW = np.dtype(list(zip(_COLUMNS, _TYPES, strict=True)))
_PACKED_ROW = np.dtype([(name, f">{kind}") for name, kind in zip(_COLUMNS, _TYPES, strict=True)])
_PACKED = "string_agg(int4send(user_key) || int4send(item_key) || float8send(value) || int8send(rated_at), '')"
_PACKED_PAGES = f"SELECT {_PACKED} FROM ratings WHERE ctid >= %s::tid AND ctid < %s::tid"  # noqa: S608
_PACKED_USERS = f"SELECT {_PACKED} FROM ratings WHERE user_key = ANY(%s::int[])"  # noqa: S608
_CHUNK_ROWS = 1 << 20
_CHUNK_PAGES = 2048
_EXPORT_ROWS = 5000
_DIGEST_USERS = 1000

Chunk = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class AllRatings:
    """Every rating, in no particular order, as of one revision; times in microseconds since 1970."""

    user_keys: npt.NDArray[np.int32]
    item_keys: npt.NDArray[np.int32]
    values: npt.NDArray[np.float64]
    rated_at: npt.NDArray[np.int64]
    revision: int


def hold_snapshot(connection: Connection) -> None:
    """See one state of the data until the transaction ends; nothing may have been read in it before.

    An SQLite transaction does so anyway.
    """
    if not set_wise.is_sqlite(connection):
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def load_all(connection: Connection) -> AllRatings:
    """Every rating, on the fastest path that the drivers have; must be the first thing in its transaction."""
    hold_snapshot(connection)
    newest = revision(connection, "ratings")
    columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _COLUMNS}
    for chunk in _chunks_sqlite(connection) if set_wise.is_sqlite(connection) else _chunks_postgresql(connection):
        for name in _COLUMNS:
            columns[name].append(chunk[name].astype(_ROW[name]))
    joined = [np.concatenate([np.zeros(0, _ROW[name]), *columns.pop(name)]) for name in _COLUMNS]
    return AllRatings(joined[0], joined[1], joined[2], joined[3], newest)


def _chunks_sqlite(connection: Connection) -> Iterator[Chunk]:
    driver: Any = connection.connection.driver_connection
    rows = driver.execute("SELECT user_key, item_key, value, rated_at FROM ratings")
    while (chunk := np.fromiter(islice(rows, _CHUNK_ROWS), _ROW)).size:
        yield chunk


def _chunks_postgresql(connection: Connection) -> Iterator[Chunk]:
    """Each range of table pages as one packed value: psycopg's cost is by row, and this is one row."""
    n_pages = connection.execute(
        text("SELECT pg_relation_size('ratings') / current_setting('block_size')::int")
    ).scalar_one()
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        for first in range(0, n_pages, _CHUNK_PAGES):
            cursor.execute(_PACKED_PAGES, (f"({first},0)", f"({first + _CHUNK_PAGES},0)"))
            packed = cursor.fetchone()[0]
            if packed:
                yield np.frombuffer(packed, _PACKED_ROW)


def ratings_digest(connection: Connection) -> str:
    """SHA-256 over all ratings in the order of their outside ids: equal stores, equal digests.

    By user in code-point order: the user id, the number of ratings, the item ids in code-point order, their
    values (little-endian float64) and their times (little-endian int64 microseconds). Memory: the ids, and the
    ratings of a thousand users. Must be the first thing in its transaction.
    """
    hold_snapshot(connection)
    users, items = user_ids(connection), item_ids(connection)
    item_rank, id_of_rank = _ranks(items.keys, items.ids)
    user_rank, id_of_user_rank = _ranks(users.keys, users.ids)
    digest = hashlib.sha256()
    by_rank = np.argsort(user_rank[users.keys], kind="stable")
    for first in range(0, by_rank.size, _DIGEST_USERS):
        keys = users.keys[by_rank[first : first + _DIGEST_USERS]]
        ratings = _ratings_of_keys(connection, keys)
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


def _ratings_of_keys(connection: Connection, user_keys: npt.NDArray[np.int64]) -> Chunk:
    driver: Any = connection.connection.driver_connection
    if set_wise.is_sqlite(connection):
        wanted = (
            "SELECT user_key, item_key, ratings.value, rated_at FROM json_each(?) AS given"
            " CROSS JOIN ratings ON user_key = given.value"
        )
        return np.fromiter(driver.execute(wanted, (json.dumps(user_keys.tolist()),)), _ROW)
    with driver.cursor(binary=True) as cursor:
        cursor.execute(_PACKED_USERS, (user_keys.tolist(),))
        return np.frombuffer(cursor.fetchone()[0] or b"", _PACKED_ROW).astype(_ROW)


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
