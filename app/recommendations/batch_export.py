"""Lists for everybody at once, as a table in a file."""

from __future__ import annotations

import csv
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select

from app.atomic_files import replacing
from app.db.engine import Database
from app.items import store as items
from app.ratings.models import User
from app.recommendations.context import Moment
from app.recommendations.dispatch import USERS_AT_ONCE, Recommender
from app.recommendations.schemas import Wish

_ROWS_OF_A_GROUP = 100_000
"""Rows of a row group of a Parquet file, at least."""


class Line(NamedTuple):
    """One item of one user's list; rank 1 is the best."""

    user_id: str
    rank: int
    item_id: str
    title: str | None
    value: float
    lower: float
    upper: float


class ParquetIsMissing(Exception):
    """The library that writes Parquet is not installed."""

    def __init__(self) -> None:
        super().__init__("Parquet is written by pyarrow, which is not installed: pip install 'palate[parquet]'")


Write = Callable[[Sequence[Line]], None]


def everybody(database: Database) -> Iterator[str]:
    """Ids of all users, in the order in which they came; who comes meanwhile may be among them."""
    last = 0
    while True:
        page = select(User.user_key, User.user_id).where(User.user_key > last).order_by(User.user_key)
        with database.read() as connection:
            rows = connection.execute(page.limit(100 * USERS_AT_ONCE)).all()
        if not rows:
            return
        yield from (row.user_id for row in rows)
        last = rows[-1].user_key


def count_users(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(User)).scalar_one()


def write_lists(
    recommender: Recommender, user_ids: Iterable[str], wish: Wish, file: Path, on_users: Callable[[int], None]
) -> int:
    """The lists of these users as CSV, or as Parquet where the file is named so; gives the number of lines.

    The file appears when it is complete. `on_users` is told how many users more are done. Raises ParquetIsMissing.
    """
    titles: dict[str, str | None] = {}
    n_lines = 0
    with _table(file) as write:
        for group in _groups(user_ids):
            lines = recommender.ask(_lines_of, recommender, group, wish, titles)
            write(lines)
            n_lines += len(lines)
            on_users(len(group))
    return n_lines


def _lines_of(
    moment: Moment, recommender: Recommender, user_ids: Sequence[str], wish: Wish, titles: dict[str, str | None]
) -> list[Line]:
    served, lines = moment.served, []
    for found in recommender.lists_of(moment, user_ids, wish):
        ids = served.item_ids.ids_of(found.rows)
        unread = [place for place, item_id in enumerate(ids) if item_id not in titles]
        if unread:
            keys = served.item_keys[found.rows[unread]].tolist()
            described = items.describe(moment.connection, keys)
            titles |= {ids[place]: described.get(key, (None,))[0] for place, key in zip(unread, keys, strict=True)}
        predicted = recommender.predict(served, found.user, found.rows, wish.level)
        told = zip(ids, *predicted, strict=True)
        lines += [
            Line(found.user_id, rank, item_id, titles[item_id], value, lower, upper)
            for rank, (item_id, value, lower, upper) in enumerate(told, start=1)
        ]
    return lines


def _groups(user_ids: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for user_id in user_ids:
        group.append(user_id)
        if len(group) == USERS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _table(file: Path) -> Iterator[Write]:
    """What writes lines to a file that gets its name in the end."""
    opened = _parquet if file.suffix == ".parquet" else _csv
    with replacing(file) as unfinished, opened(unfinished) as write:
        yield write


@contextmanager
def _csv(file: Path) -> Iterator[Write]:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(Line._fields)
        yield writer.writerows


@contextmanager
def _parquet(file: Path) -> Iterator[Write]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ParquetIsMissing
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    types = (arrow.string(), arrow.int32(), arrow.string(), arrow.string(), *[arrow.float32()] * 3)
    schema = arrow.schema(list(zip(Line._fields, types, strict=True)))
    waiting: list[Line] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            columns = [list(column) for column in zip(*waiting, strict=True)]
            writer.write_table(arrow.table(dict(zip(Line._fields, columns, strict=True)), schema=schema))
            waiting.clear()

        def write(lines: Sequence[Line]) -> None:
            waiting.extend(lines)
            if len(waiting) >= _ROWS_OF_A_GROUP:
                flush()

        yield write
        if waiting:
            flush()
