"""All ratings as lines that an import understands, and as a digest that compares two stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select, tuple_

from app.db.connections import driver, driver_for_sorting, is_sqlite
from app.db.ids import Ids, read_ids
from app.items.models import Item
from app.ratings.bulk_read import hold_snapshot
from app.ratings.models import Rating, User

ExportFormat = Literal["ndjson", "csv"]

_PAGE_ROWS = 5000
_CSV_LINE = "{},{},{!r},{}Z\n"
_NDJSON_LINE = '{{"user_id":{},"item_id":{},"value":{!r},"rated_at":"{}Z"}}\n'

_DIGEST_USERS = 1000
_ROW = np.dtype([("user_key", "i4"), ("item_key", "i4"), ("value", "f8"), ("rated_at", "i8")])
_SQLITE_ROWS_OF_USERS = """
    SELECT user_key, item_key, ratings.value, rated_at FROM json_each(?) AS users
    CROSS JOIN ratings ON user_key = users.value"""
_POSTGRESQL_ROWS_BY_USER = """
    SELECT packed FROM (
        SELECT user_key, string_agg(
            int4send(user_key) || int4send(item_key) || float8send(value) || int8send(rated_at), '') AS packed
        FROM ratings GROUP BY user_key) AS of_user
    JOIN users USING (user_key) ORDER BY user_id COLLATE "C\""""

_Rows = npt.NDArray[np.void]


def export(connection: Connection, file_format: ExportFormat) -> Iterator[bytes]:
    """Every rating as lines that an import understands, in blocks; must be the first read in its transaction."""
    hold_snapshot(connection)
    if file_format == "csv":
        yield b"user_id,item_id,value,rated_at\n"
    line, quoted = (_CSV_LINE, _quoted_for_csv) if file_format == "csv" else (_NDJSON_LINE, _quoted_for_json)
    last = (0, 0)
    while rows := _page_after(connection, last):
        last = rows[-1][0], rows[-1][1]
        yield "".join(
            [
                line.format(quoted(user_id), quoted(item_id), value, rated_at.isoformat().removesuffix("+00:00"))
                for _, _, user_id, item_id, value, rated_at in rows
            ]
        ).encode()


def _quoted_for_csv(outside_id: str) -> str:
    if '"' in outside_id or "," in outside_id or outside_id != outside_id.strip():
        return '"' + outside_id.replace('"', '""') + '"'
    return outside_id


def _quoted_for_json(outside_id: str) -> str:
    return json.dumps(outside_id, ensure_ascii=False)


def _page_after(connection: Connection, last: tuple[int, int]) -> Any:
    page = (
        select(Rating.__table__)
        .where(tuple_(Rating.user_key, Rating.item_key) > tuple_(*last))
        .order_by(Rating.user_key, Rating.item_key)
        .limit(_PAGE_ROWS)
        .subquery()
    )
    query = (
        select(page.c.user_key, page.c.item_key, User.user_id, Item.item_id, page.c.value, page.c.rated_at)
        .join(User, User.user_key == page.c.user_key)
        .join(Item, Item.item_key == page.c.item_key)
        .order_by(page.c.user_key, page.c.item_key)
    )
    return connection.execute(query).all()


def ratings_digest(connection: Connection) -> str:
    """SHA-256 over all ratings in the order of their ids; stores with equal ratings have equal digests.

    Users come in code-point order. Each adds its id, its number of ratings, its item ids in code-point order, their
    values (little-endian float64) and their times (little-endian int64 microseconds). Needs a transaction with
    `hold_snapshot`. Memory: all ids, and the ratings of a thousand users.
    """
    users, items = _IdOrder(read_ids(connection, "user")), _IdOrder(read_ids(connection, "item"))
    digest = hashlib.sha256()
    batches = _batches_sqlite(connection, users.keys) if is_sqlite(connection) else _batches_postgresql(connection)
    for rows in batches:
        user, item = users.rank_of_key[rows["user_key"]], items.rank_of_key[rows["item_key"]]
        order = np.lexsort((item, user))
        _digest_users(digest.update, rows[order], user[order], item[order], users.ids, items.ids)
    return digest.hexdigest()


class _IdOrder:
    """Ids in code-point order, their keys in that order, and the rank of each key."""

    def __init__(self, table: Ids) -> None:
        order = sorted(range(len(table.ids)), key=table.ids.__getitem__)
        self.ids = [table.ids[index] for index in order]
        self.keys = table.keys[order]
        self.rank_of_key = np.zeros(int(table.keys.max(initial=0)) + 1, np.int64)
        self.rank_of_key[self.keys] = np.arange(len(order))


def _batches_sqlite(connection: Connection, user_keys: npt.NDArray[np.int64]) -> Iterator[_Rows]:
    """The ratings of a thousand of these users at a time: SQLite stores those of a user side by side."""
    for first in range(0, user_keys.size, _DIGEST_USERS):
        keys = json.dumps(user_keys[first : first + _DIGEST_USERS].tolist())
        with driver(connection) as raw:
            yield np.fromiter(raw.execute(_SQLITE_ROWS_OF_USERS, (keys,)), _ROW)


def _batches_postgresql(connection: Connection) -> Iterator[_Rows]:
    """The same from a server, whose table is in order of arrival: a query for each batch would read all of it."""
    with driver_for_sorting(connection) as raw, raw.cursor("by_user", binary=True) as cursor:
        cursor.execute(_POSTGRESQL_ROWS_BY_USER)
        while batch := cursor.fetchmany(_DIGEST_USERS):
            yield np.frombuffer(b"".join(packed for (packed,) in batch), _ROW.newbyteorder(">")).astype(_ROW)


def _digest_users(
    add: Callable[[bytes], object],
    rows: _Rows,
    user: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    user_ids: list[str],
    item_ids: list[str],
) -> None:
    """`rows` and the ranks of their users and items, sorted by both ranks."""
    ends = np.flatnonzero(np.diff(user, append=-1)) + 1
    values, times = rows["value"].astype("<f8"), rows["rated_at"].astype("<i8")
    first = 0
    for last in ends.tolist():
        ids = "\n".join([user_ids[user[first]], str(last - first), *(item_ids[i] for i in item[first:last].tolist())])
        add(ids.encode())
        add(values[first:last].tobytes())
        add(times[first:last].tobytes())
        first = last
