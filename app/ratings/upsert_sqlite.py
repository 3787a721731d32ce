"""One rating, in as few steps as each database has: what writes many at once takes several times as long for it.

What it does is what `store.save_each` does with many, and the same tests hold for both.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from app.db.connections import driver

# One row, whoever is unknown: what is not there is null.
_LOOK_UP_SQLITE = """
    SELECT counters.value, users.user_key, items.item_key, ratings.value, ratings.rated_at
    FROM counters LEFT JOIN users ON users.user_id = ? LEFT JOIN items ON items.item_id = ?
    LEFT JOIN ratings ON ratings.user_key = users.user_key AND ratings.item_key = items.item_key
    WHERE counters.name = 'ratings'"""
_INSERT_SQLITE = "INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)"
_UPDATE_SQLITE = "UPDATE ratings SET value = ?, rated_at = ?, revision = ? WHERE user_key = ? AND item_key = ?"
_FORGET_SQLITE = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_COUNT_NEW_SQLITE = "UPDATE counters SET value = value + 1 WHERE name IN ('ratings', 'n_ratings')"
_COUNT_SQLITE = "UPDATE counters SET value = value + 1 WHERE name = 'ratings'"
_WRITE_POSTGRESQL = "SELECT before, rated, change FROM write_rating(%s, %s, %s::float8, %s::bigint, %s::bigint)"


class Given(Protocol):
    """A rating to store; no time stands for the time of the write."""

    @property
    def user_id(self) -> str: ...
    @property
    def item_id(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def rated_us(self) -> int | None: ...


class WrittenOne(NamedTuple):
    """The newest revision before the rating, its time as stored now, and 0, 1 or 2: unchanged, updated, created."""

    before: int
    rated_us: int
    change: int


def write_on_server(connection: Connection, rating: Given, now_us: int | None) -> WrittenOne:
    """One question to PostgreSQL (migration 0001)."""
    given = (rating.user_id, rating.item_id, rating.value, rating.rated_us, now_us)
    with driver(connection) as raw:
        return WrittenOne(*raw.cursor(binary=True).execute(_WRITE_POSTGRESQL, given).fetchone())


def write_in_file(connection: Connection, rating: Given, now_us: int) -> WrittenOne | None:
    """The same on SQLite, whose lock the transaction holds since it began; None where user or item is new."""
    with driver(connection) as raw:
        found = raw.execute(_LOOK_UP_SQLITE, (rating.user_id, rating.item_id)).fetchone()
        before, user_key, item_key, old_value, old_us = found
        if user_key is None or item_key is None:
            return None
        rated_us = now_us if rating.rated_us is None else rating.rated_us
        if old_value is None:
            _insert(raw, user_key, item_key, rating.value, rated_us, before + 1)
            return WrittenOne(before, rated_us, 2)
        if old_value == rating.value and rating.rated_us in (None, old_us):
            return WrittenOne(before, old_us, 0)
        raw.execute(_UPDATE_SQLITE, (rating.value, rated_us, before + 1, user_key, item_key))
        raw.execute(_COUNT_SQLITE)
        return WrittenOne(before, rated_us, 1)


def _insert(raw: Any, user_key: int, item_key: int, value: float, rated_us: int, revision: int) -> None:
    raw.execute(_INSERT_SQLITE, (user_key, item_key, value, rated_us, revision))
    raw.execute(_FORGET_SQLITE, (user_key, item_key))
    raw.execute(_COUNT_NEW_SQLITE)
