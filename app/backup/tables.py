"""The tables of a backup: read page by page, loaded in bulk, on SQLite and PostgreSQL.

Rows keep their keys and revisions, which model versions and caches refer to. A table of numbers is stored by column,
without a Python object per rating; other tables have a JSON array per row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import JSON, BigInteger, Connection, Float, Integer, Table, delete, text
from sqlalchemy.types import TypeEngine

from app.api_keys.models import ApiKey
from app.db.connections import driver, driver_for_sorting, is_sqlite
from app.db.revisions import Counter
from app.db.tables import Base, UtcTime
from app.http.idempotency import IdempotentResponse
from app.items.models import DeletedItem, Item
from app.ratings.models import DeletedRating, Rating, User
from app.registry.models import ActiveModel, ModelVersion
from app.training.models import TrainingEpoch, TrainingRun
from app.tuning.models import SearchRow, SearchTrial

_MODELS: tuple[type[Base], ...] = (
    *(Counter, ApiKey, User, Item, DeletedItem, Rating, DeletedRating),
    *(TrainingRun, TrainingEpoch, SearchRow, SearchTrial, ModelVersion, ActiveModel),
)
PAGE_NUMBERS, PAGE_TEXTS = 500_000, 20_000
"""Rows in memory at once: of a table of numbers (16 MB of ratings, twice) and of other tables."""

Numbers = npt.NDArray[np.void]
TextRows = list[tuple[Any, ...]]
Page = Numbers | TextRows
"""Rows as a structured array for a table of numbers, as tuples for other tables."""

_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table in an archive, and their number types, or None if not all are numbers."""

    columns: tuple[str, ...]
    kinds: tuple[str, ...] | None

    @classmethod
    def of(cls, table: Table) -> Layout:
        kinds = [_kind(column.type) for column in table.columns]
        is_numbers = all(kinds) and not any(column.nullable for column in table.columns)
        return cls(tuple(table.columns.keys()), tuple(kind for kind in kinds if kind) if is_numbers else None)

    def fits(self, table: Table) -> bool:
        """Whether rows of this layout can be loaded into the table, which may have more columns by now."""
        if not set(self.columns) <= set(table.columns.keys()):
            return False
        return self.kinds is None or self.kinds == tuple(_kind(table.columns[name].type) for name in self.columns)

    def dtype(self, byte_order: str = "<") -> np.dtype[np.void]:
        """Data type of a row of numbers."""
        assert self.kinds
        return np.dtype([(name, f"{byte_order}{kind}") for name, kind in zip(self.columns, self.kinds, strict=True)])


def tables() -> list[Table]:
    """The tables of a backup, parents before children."""
    return [model.metadata.tables[model.__tablename__] for model in _MODELS]


def _kind(type_: TypeEngine[Any]) -> str | None:
    if isinstance(type_, BigInteger | UtcTime):
        return "i8"
    if isinstance(type_, Integer):
        return "i4"
    return "f8" if isinstance(type_, Float) else None


def pages(connection: Connection, table: Table) -> Iterator[Page]:
    """All rows in the order of the primary key; the transaction must be isolated from writers."""
    layout = Layout.of(table)
    keys = [column.name for column in table.primary_key]
    if layout.kinds and not is_sqlite(connection):
        yield from _numbers_of_server(connection, table, keys)
        return
    key_columns = [layout.columns.index(key) for key in keys]
    after: tuple[Any, ...] = ()
    while len(page := _page(connection, table, keys, after)):
        last = page[-1]
        values = last.item() if isinstance(last, np.void) else last
        after = tuple(values[column] for column in key_columns)
        yield page


def _page(connection: Connection, table: Table, keys: Sequence[str], after: tuple[Any, ...]) -> Page:
    """The rows whose keys follow `after`, as they are stored."""
    layout = Layout.of(table)
    columns = ", ".join(
        f"CAST({column.name} AS TEXT) AS {column.name}" if isinstance(column.type, JSON) else column.name
        for column in table.columns
    )
    parameters = {f"key_{position}": value for position, value in enumerate(after)}
    beyond = f"WHERE ({', '.join(keys)}) > ({', '.join(f':{name}' for name in parameters)})" if after else ""
    n_rows = PAGE_NUMBERS if layout.kinds else PAGE_TEXTS
    query = f"SELECT {columns} FROM {table.name} {beyond} ORDER BY {', '.join(keys)} LIMIT {n_rows}"  # noqa: S608
    if not layout.kinds:
        return [tuple(row) for row in connection.execute(text(query), parameters)]
    with driver(connection) as raw:
        return np.fromiter(raw.execute(query, parameters), layout.dtype())


def _numbers_of_server(connection: Connection, table: Table, keys: Sequence[str]) -> Iterator[Numbers]:
    """One sorted query with a server-side cursor: separate pages would each jump around in the table."""
    layout, send = Layout.of(table), {"i4": "int4send", "i8": "int8send", "f8": "float8send"}
    packed = " || ".join(f"{send[kind]}({name})" for name, kind in zip(layout.columns, layout.kinds or (), strict=True))
    with driver_for_sorting(connection) as raw, raw.cursor("numbers", binary=True) as cursor:
        cursor.execute(f"SELECT {packed} FROM {table.name} ORDER BY {', '.join(keys)}")  # noqa: S608
        while rows := cursor.fetchmany(PAGE_NUMBERS):
            yield np.frombuffer(b"".join(row for (row,) in rows), layout.dtype(">")).astype(layout.dtype())


def encoded(page: Page) -> bytes:
    """The bytes of a page: numbers column by column, which compresses best; other rows as JSON lines."""
    if isinstance(page, np.ndarray):
        return b"".join(page[name].tobytes() for name in page.dtype.names or ())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in page).encode()


def decoded(data: bytes, layout: Layout, n_rows: int) -> Page:
    """The page of these bytes; raises ValueError if they are not `n_rows` rows."""
    if layout.kinds is None:
        rows = [tuple(json.loads(line)) for line in data.splitlines()]
        if len(rows) != n_rows or any(len(row) != len(layout.columns) for row in rows):
            raise ValueError
        return rows
    dtype = layout.dtype()
    if len(data) != n_rows * dtype.itemsize:
        raise ValueError
    page, start = np.empty(n_rows, dtype), 0
    for name, kind in zip(layout.columns, layout.kinds, strict=True):
        page[name] = np.frombuffer(data, f"<{kind}", n_rows, start)
        start += n_rows * dtype[name].itemsize
    return page


def load(connection: Connection, table: Table, layout: Layout, rows: Iterator[Page]) -> None:
    """Insert new rows; columns that the layout lacks get their defaults.

    Secondary indexes are dropped and rebuilt, several times as fast as updating them.
    """
    indexes = list(table.indexes) if layout.kinds else []
    for index in indexes:
        index.drop(connection)
    insert = _insert_sqlite if is_sqlite(connection) else _copy_numbers if layout.kinds else _copy_texts
    insert(connection, table, layout, rows)
    for index in indexes:
        index.create(connection)


def _insert_sqlite(connection: Connection, table: Table, layout: Layout, rows: Iterator[Page]) -> None:
    marks = ", ".join("?" * len(layout.columns))
    statement = f"INSERT INTO {table.name} ({', '.join(layout.columns)}) VALUES ({marks})"  # noqa: S608
    with driver(connection) as raw:
        for page in rows:
            raw.executemany(statement, page.tolist() if isinstance(page, np.ndarray) else page)


def _copy_texts(connection: Connection, table: Table, layout: Layout, rows: Iterator[Page]) -> None:
    statement = f"COPY {table.name} ({', '.join(layout.columns)}) FROM STDIN"
    with driver(connection) as raw, raw.cursor() as cursor, cursor.copy(statement) as copy:
        for page in rows:
            for row in page:
                copy.write_row(row)


def _copy_numbers(connection: Connection, table: Table, layout: Layout, rows: Iterator[Page]) -> None:
    fields: list[tuple[str, str]] = [("n_fields", ">i2")]
    for name, kind in zip(layout.columns, layout.kinds or (), strict=True):
        fields += [(f"size of {name}", ">i4"), (name, f">{kind}")]
    statement = f"COPY {table.name} ({', '.join(layout.columns)}) FROM STDIN (FORMAT binary)"
    with driver(connection) as raw, raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(_COPY_HEAD)
        for page in rows:
            assert isinstance(page, np.ndarray)
            records = np.empty(page.size, fields)
            records["n_fields"] = len(layout.columns)
            for name in layout.columns:
                records[f"size of {name}"], records[name] = page.dtype[name].itemsize, page[name]
            copy.write(records.tobytes())
        copy.write(_COPY_END)


def clear(connection: Connection, all_tables: Sequence[Table]) -> None:
    """Delete all rows of these tables (parents come before children), and stored responses about them."""
    connection.execute(delete(IdempotentResponse))
    if is_sqlite(connection):
        for table in reversed(all_tables):
            connection.execute(delete(table))
    else:
        connection.execute(text(f"TRUNCATE {', '.join(table.name for table in all_tables)}"))


def last_number(connection: Connection, table: Table) -> int | None:
    """The highest number ever assigned, also to a row deleted since; None if the table assigns none."""
    if table.autoincrement_column is None:
        return None
    if is_sqlite(connection):
        query = text("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = :table")
        return int(connection.execute(query, {"table": table.name}).scalar_one())
    query = text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {_sequence(connection, table)}")  # noqa: S608
    return int(connection.execute(query).scalar_one())


def set_last_number(connection: Connection, table: Table, number: int) -> None:
    """Assign only higher numbers from now on; rolled back with the transaction."""
    if is_sqlite(connection):
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), {"table": table.name})
        values = {"table": table.name, "number": number}
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :number)"), values)
    else:
        connection.execute(text(f"ALTER SEQUENCE {_sequence(connection, table)} RESTART WITH {number + 1}"))


def _sequence(connection: Connection, table: Table) -> str:
    assert table.autoincrement_column is not None
    names = {"table": table.name, "column": table.autoincrement_column.name}
    return str(connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), names).scalar_one())
