"""Writes ratings to SQLite; `store.Upsert` says what these functions do. The transaction holds the file's lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate, repeat
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert

from app.db.connections import driver
from app.db.ids import id_column
from app.db.revisions import advance
from app.db.tables import microseconds_of, time_of, utc_now
from app.imports.line_import import BatchCounts
from app.items.store import ensure_items
from app.ratings.models import NewRating, Outcome, SavedRating, User

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
    SELECT pairs.value, ratings.value, ratings.rated_at FROM json_each(?) AS pairs
    CROSS JOIN ratings ON user_key = pairs.value >> 32 AND item_key = pairs.value & 4294967295"""
_UPSERT = """
    INSERT INTO ratings (user_key, item_key, value, rated_at, revision) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (user_key, item_key) DO UPDATE
    SET value = excluded.value, rated_at = excluded.rated_at, revision = excluded.revision"""
_FORGET_DELETION = "DELETE FROM deleted_ratings WHERE user_key = ? AND item_key = ?"
_COUNT = "UPDATE counters SET value = value + ? WHERE name = ?"
_COUNT_UPDATED = "UPDATE counters SET value = value + 1 WHERE name = 'ratings'"
_COUNT_CREATED = "UPDATE counters SET value = value + 1 WHERE name IN ('ratings', 'n_ratings')"


def upsert_each(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> list[SavedRating]:
    now_us = microseconds_of(now or utc_now())
    if len(ratings) == 1 and (saved := _upsert_one(connection, ratings[0], now_us)):
        return [saved]
    written, revisions = _upsert(connection, ratings, now_us)
    return [
        SavedRating(rating.user_id, rating.item_id, rating.value, time_of(rated_us), outcome, revision)
        for rating, (outcome, rated_us), revision in zip(ratings, written, revisions[1:], strict=True)
    ]


def upsert_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    written, revisions = _upsert(connection, ratings, microseconds_of(now or utc_now()))
    outcomes = [outcome for outcome, _ in written]
    return BatchCounts(outcomes.count("created"), outcomes.count("updated"), outcomes.count("unchanged"), revisions[-1])


_Written = tuple[Outcome, int]
"""What became of a rating, and its time as stored now."""


def _outcome(stored: tuple[float, int] | None, value: float, rated_us: int | None, now_us: int) -> _Written:
    if stored is None:
        return "created", now_us if rated_us is None else rated_us
    old_value, old_us = stored
    if old_value == value and (rated_us is None or rated_us == old_us):
        return "unchanged", old_us
    return "updated", now_us if rated_us is None else rated_us


def _upsert_one(connection: Connection, rating: NewRating, now_us: int) -> SavedRating | None:
    """As `_upsert`, in a quarter of the time; None if the user or the item is new."""
    user_id, item_id, value, rated_us = rating
    with driver(connection) as raw:
        revision, user_key, item_key, *stored = raw.execute(_LOOK_UP_ONE, (user_id, item_id)).fetchone()
        if user_key is None or item_key is None:
            return None
        outcome, rated_us = _outcome(None if stored[0] is None else stored, value, rated_us, now_us)
        if outcome != "unchanged":
            revision += 1
            raw.execute(_UPSERT, (user_key, item_key, value, rated_us, revision))
            raw.execute(_COUNT_CREATED if outcome == "created" else _COUNT_UPDATED)
        if outcome == "created":
            raw.execute(_FORGET_DELETION, (user_key, item_key))
    return SavedRating(user_id, item_id, value, time_of(rated_us), outcome, revision)


def _upsert(connection: Connection, ratings: Sequence[NewRating], now_us: int) -> tuple[list[_Written], list[int]]:
    """What became of each rating, and the newest revision before the first and after each.

    Works column by column and in C where it can: a batch has thousands of ratings.
    """
    user_ids, item_ids, values, times = zip(*ratings, strict=True) if ratings else ((),) * 4
    newest, user_keys, item_keys = _keys(connection, user_ids, item_ids)
    users, items = list(map(user_keys.__getitem__, user_ids)), list(map(item_keys.__getitem__, item_ids))
    pairs = np.array(users, np.int64) << 32 | np.array(items, np.int64)
    order = np.argsort(pairs)  # the order of the table's pages
    with driver(connection) as raw:
        found = raw.execute(_LOOK_UP_RATINGS, (json.dumps(pairs[order].tolist()),))
        stored = {pair: (value, rated_us) for pair, value, rated_us in found}
        written = list(map(_outcome, map(stored.get, pairs.tolist()), values, times, repeat(now_us)))
        outcomes = [outcome for outcome, _ in written]
        revisions = list(accumulate(map("unchanged".__ne__, outcomes), initial=newest))
        rows = [
            (users[index], items[index], values[index], written[index][1], revisions[index + 1])
            for index in order.tolist()
            if outcomes[index] != "unchanged"
        ]
        _write(raw, rows, n_new=outcomes.count("created"))
    return written, revisions


def _write(raw: Any, rows: list[tuple[int, int, float, int, int]], n_new: int) -> None:
    raw.executemany(_UPSERT, rows)
    if n_new and raw.execute("SELECT EXISTS (SELECT 1 FROM deleted_ratings)").fetchone()[0]:
        raw.executemany(_FORGET_DELETION, [row[:2] for row in rows])
    raw.executemany(_COUNT, [(len(rows), "ratings"), (n_new, "n_ratings")])


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
