"""Writes ratings to SQLite; `store.Upsert` says what these functions do. The transaction holds the file's lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, insert

from app.db.connections import driver
from app.db.engine import Database
from app.db.ids import id_column
from app.db.revisions import advance
from app.db.tables import microseconds_of, time_of, utc_now
from app.imports.line_import import BatchCounts
from app.items.store import ensure_items
from app.ratings.models import CREATED, OUTCOMES, NewRating, SavedRating, User, saved_ratings

# One row; NULL for what does not exist.
_LOOK_UP_ONE = """
    SELECT counters.value, users.user_key, items.item_key, ratings.value, ratings.rated_at
    FROM counters LEFT JOIN users ON users.user_id = ? LEFT JOIN items ON items.item_id = ?
    LEFT JOIN ratings ON ratings.user_key = users.user_key AND ratings.item_key = items.item_key
    WHERE counters.name = 'ratings'"""
_LOOK_UP_KEYS = """
    SELECT value,
        (SELECT json_group_object(user_id, user_key) FROM users WHERE user_id IN (SELECT value FROM json_each(?))),
        (SELECT json_group_object(item_id, item_key) FROM items WHERE item_id IN (SELECT value FROM json_each(?)))
    FROM counters WHERE name = 'ratings'"""
# CROSS JOIN forces one look into the primary key per pair: a planner that misjudges their number reads the whole table.
_LOOK_UP_RATINGS = """
    SELECT pairs.key, ratings.value, ratings.rated_at FROM json_each(?) AS pairs
    CROSS JOIN ratings ON user_key = pairs.value >> 32 AND item_key = pairs.value & 4294967295"""
_STORED = np.dtype([("index", "i8"), ("value", "f8"), ("rated_us", "i8")])
_NO_TIME = np.iinfo(np.int64).min
_UPSERT = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_FORGET_DELETION = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_COUNT = "UPDATE counters SET value = value + ? WHERE name = ?"
_COUNT_UPDATED = "UPDATE counters SET value = value + 1 WHERE name = 'ratings'"
_COUNT_CREATED = "UPDATE counters SET value = value + 1 WHERE name IN ('ratings', 'n_ratings')"


def commit_each(database: Database, ratings: Sequence[NewRating]) -> list[SavedRating]:
    with database.write() as connection:
        return upsert_each(connection, ratings)


def upsert_each(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> list[SavedRating]:
    now_us = microseconds_of(now or utc_now())
    if len(ratings) == 1 and (saved := _upsert_one(connection, ratings[0], now_us)):
        return [saved]
    before, times, changes = _upsert(connection, ratings, now_us)
    return saved_ratings(ratings, before, times.tolist(), changes.tolist())


def upsert_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    before, _, changes = _upsert(connection, ratings, microseconds_of(now or utc_now()))
    unchanged, updated, created = np.bincount(changes, minlength=len(OUTCOMES)).tolist()
    return BatchCounts(created, updated, unchanged, before + created + updated)


def _upsert_one(connection: Connection, rating: NewRating, now_us: int) -> SavedRating | None:
    """As `_upsert`, in a quarter of the time; None if the user or the item is new."""
    user_id, item_id, value, rated_us = rating
    with driver(connection) as raw:
        before, user_key, item_key, old_value, old_us = raw.execute(_LOOK_UP_ONE, (user_id, item_id)).fetchone()
        if user_key is None or item_key is None:
            return None
        if rated_us is None:
            rated_us = old_us if value == old_value else now_us
        change = CREATED if old_value is None else 0 if (value, rated_us) == (old_value, old_us) else 1
        if change:
            raw.execute(_UPSERT, (user_key, item_key, value, rated_us, before + 1))
            raw.execute(_COUNT_CREATED if change == CREATED else _COUNT_UPDATED)
        if change == CREATED:
            raw.execute(_FORGET_DELETION, (user_key, item_key))
    return SavedRating(user_id, item_id, value, time_of(rated_us), OUTCOMES[change], before + (change > 0))


_Integers = npt.NDArray[np.int64]


def _upsert(connection: Connection, ratings: Sequence[NewRating], now_us: int) -> tuple[int, _Integers, _Integers]:
    """The newest revision before, the time of each rating as stored now, and its outcome as an index of OUTCOMES.

    Works column by column and in C where it can: a batch has thousands of ratings.
    """
    user_ids, item_ids, values, times = zip(*ratings, strict=True) if ratings else ((),) * 4
    before, user_keys, item_keys = _keys(connection, user_ids, item_ids)
    users = np.array([user_keys[user_id] for user_id in user_ids], np.int64)
    items = np.array([item_keys[item_id] for item_id in item_ids], np.int64)
    value = np.array(values, np.float64)
    rated_us = np.array([_NO_TIME if time is None else time for time in times], np.int64)
    pairs = users << 32 | items
    order = np.argsort(pairs)  # the order of the table's pages
    with driver(connection) as raw:
        stored = np.fromiter(raw.execute(_LOOK_UP_RATINGS, (json.dumps(pairs[order].tolist()),)), _STORED)
        changes = _changes(stored, order[stored["index"]], value, rated_us)
        rated_us[rated_us == _NO_TIME] = now_us
        changed = order[changes[order] > 0]
        columns = (users, items, value, rated_us, before + np.cumsum(changes > 0))
        _write(raw, [column[changed].tolist() for column in columns], int(np.count_nonzero(changes == CREATED)))
    return before, rated_us, changes


def _changes(
    stored: npt.NDArray[np.void], indices: _Integers, value: npt.NDArray[np.float64], rated_us: _Integers
) -> _Integers:
    """The outcome of each rating, as an index of OUTCOMES; `stored` are the old ratings at these indices.

    A rating with the old value but no time takes the old time.
    """
    is_same_value = value[indices] == stored["value"]
    takes_old_time = is_same_value & (rated_us[indices] == _NO_TIME)
    rated_us[indices[takes_old_time]] = stored["rated_us"][takes_old_time]
    changes = np.full(value.size, CREATED)
    changes[indices] = ~(is_same_value & (rated_us[indices] == stored["rated_us"]))
    return changes


def _write(raw: Any, columns: list[list[Any]], n_new: int) -> None:
    raw.executemany(_UPSERT, zip(*columns, strict=True))
    if n_new and raw.execute("SELECT EXISTS (SELECT 1 FROM deleted_ratings)").fetchone()[0]:
        raw.executemany(_FORGET_DELETION, zip(*columns[:2], strict=True))
    raw.executemany(_COUNT, [(len(columns[0]), "ratings"), (n_new, "n_ratings")])


def _keys(
    connection: Connection, user_ids: Sequence[str], item_ids: Sequence[str]
) -> tuple[int, dict[str, int], dict[str, int]]:
    """The newest revision, and the key of each user and item; new users and items are created."""
    users, items = list(dict.fromkeys(user_ids)), list(dict.fromkeys(item_ids))
    with driver(connection) as raw:
        newest, *found = raw.execute(_LOOK_UP_KEYS, (json.dumps(users), json.dumps(items))).fetchone()
    user_keys, item_keys = map(json.loads, found)
    if new_users := [user_id for user_id in users if user_id not in user_keys]:
        added = insert(User).from_select(["user_id"], id_column(connection, new_users))
        user_keys |= dict(connection.execute(added.returning(User.user_id, User.user_key)).all())
        advance(connection, "n_users", len(new_users))
    if new_items := [item_id for item_id in items if item_id not in item_keys]:
        item_keys |= ensure_items(connection, new_items)
    return newest, user_keys, item_keys
