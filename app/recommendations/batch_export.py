"""The lists of many users, written to a table in a file."""

from __future__ import annotations

import csv
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select

from app.atomic_files import replacing
from app.db.engine import Database
from app.items import store as items
from app.ratings.models import User
from app.recommendations.dispatch import Recommender, RequestContext
from app.recommendations.lists import USERS_AT_ONCE, lists_for_users
from app.recommendations.schemas import ListRequest

_MIN_GROUP_ROWS = 100_000
"""Fewest rows in a row group of a Parquet file, except the last."""


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
        super().__init__("writing Parquet requires pyarrow: pip install 'palate[parquet]'")


Write = Callable[[Sequence[Line]], None]


def all_user_ids(database: Database) -> Iterator[str]:
    """Ids of all users, oldest first; users who are added meanwhile may be included."""
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
    recommender: Recommender,
    user_ids: Iterable[str],
    request: ListRequest,
    file: Path,
    on_users: Callable[[int], None],
) -> int:
    """Write the lists of these users as CSV, or as Parquet if the file is named so; returns the number of lines.

    The file appears when it is complete. `on_users` is called with the number of users since its last call. Raises
    ParquetIsMissing.
    """
    titles: dict[str, str | None] = {}
    n_lines = 0
    with _table(file) as write:
        remaining = iter(user_ids)
        while group := list(islice(remaining, USERS_AT_ONCE)):
            lines = recommender.answer_in_thread(_lines_of, group, request, titles)
            write(lines)
            n_lines += len(lines)
            on_users(len(group))
    return n_lines


def _lines_of(
    context: RequestContext, user_ids: Sequence[str], request: ListRequest, titles: dict[str, str | None]
) -> list[Line]:
    model, lines = context.serving_model, list[Line]()
    for user_list in lists_for_users(context, user_ids, request):
        ids = model.item_ids.ids_of(user_list.rows)
        unread = [position for position, item_id in enumerate(ids) if item_id not in titles]
        if unread:
            keys = model.item_keys[user_list.rows[unread]].tolist()
            described = items.describe(context.connection, keys)
            titles |= {ids[each]: described.get(key, (None,))[0] for each, key in zip(unread, keys, strict=True)}
        predicted = model.predict(user_list.user.vector, user_list.rows, request.level)
        lines += [
            Line(user_list.user_id, rank, item_id, titles[item_id], value, lower, upper)
            for rank, (item_id, value, lower, upper) in enumerate(zip(ids, *predicted, strict=True), start=1)
        ]
    return lines


@contextmanager
def _table(file: Path) -> Iterator[Write]:
    """A function that writes lines to the file, which gets its name when it is complete."""
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
            if len(waiting) >= _MIN_GROUP_ROWS:
                flush()

        yield write
        if waiting:
            flush()
