"""Writes ratings to PostgreSQL; `store.Upsert` says what these functions do.

Each is one call of a function of the first migration, which locks the ratings counter before it reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.db.connections import driver
from app.db.engine import Database
from app.db.tables import microseconds_of
from app.imports.line_import import BatchCounts
from app.ratings.models import NewRating, SavedRating, saved_ratings

_UPSERT_ONE = "SELECT before, rated, change FROM write_rating(%s, %s, %s::float8, %s::bigint, %s::bigint)"
_UPSERT_MANY = """
    SELECT before, n_changed, n_new, each_written FROM write_many_ratings(
        string_to_array(%s, E'\\n'), string_to_array(%s, E'\\n'), %s::float8[], %s::bigint[], %s::bigint, %s)"""
_WRITTEN = np.dtype([("rated_us", ">i8"), ("change", ">i8")])


def commit_each(database: Database, ratings: Sequence[NewRating]) -> list[SavedRating]:
    with database.write_at_once() as connection:
        return upsert_each(connection, ratings)


def upsert_each(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> list[SavedRating]:
    if len(ratings) == 1:
        with driver(connection) as raw:
            parameters = (*ratings[0], None if now is None else microseconds_of(now))
            before, rated_us, change = raw.cursor(binary=True).execute(_UPSERT_ONE, parameters).fetchone()
        return saved_ratings(ratings, before, [rated_us], [change])
    before, _, _, packed = _upsert(connection, ratings, now, wants_each=True)
    written = np.frombuffer(packed or b"", _WRITTEN)
    return saved_ratings(ratings, before, written["rated_us"].tolist(), written["change"].tolist())


def upsert_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    before, n_changed, n_new, _ = _upsert(connection, ratings, now, wants_each=False)
    return BatchCounts(n_new, n_changed - n_new, len(ratings) - n_changed, before + n_changed)


def _upsert(connection: Connection, ratings: Sequence[NewRating], now: datetime | None, *, wants_each: bool) -> Any:
    users, items, values, times = zip(*ratings, strict=True) if ratings else ((),) * 4
    rated_us = None if set(times) == {None} else _array(times)
    now_us = None if now is None else microseconds_of(now)
    parameters = (_lines(users), _lines(items), _array(values), rated_us, now_us, wants_each)
    with driver(connection) as raw:
        return raw.cursor(binary=True).execute(_UPSERT_MANY, parameters).fetchone()


def _lines(ids: Sequence[str]) -> str:
    """Ids as one text, which PostgreSQL splits the fastest. Ids are printable, so none contains a line end."""
    text = "\n".join(ids)
    if text.count("\n") >= max(len(ids), 1):
        raise ValueError("an id contains a line end")
    return text


def _array(column: Sequence[float | None]) -> str:
    """A PostgreSQL array literal; psycopg would adapt every number one by one."""
    return "{" + json.dumps(column)[1:-1] + "}"
