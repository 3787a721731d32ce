"""Writes ratings to SQLite; `store.Upsert` says what these functions do. The transaction holds the file's lock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

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
    _, written = _upsert(connection, ratings, now_us)
    return [
        SavedRating(rating.user_id, rating.item_id, rating.value, time_of(each.rated_us), each.outcome, each.revision)
        for rating, each in zip(ratings, written, strict=True)
    ]


def upsert_many(connection: Connection, ratings: Sequence[NewRating], now: datetime | None = None) -> BatchCounts:
    newest, written = _upsert(connection, ratings, microseconds_of(now or utc_now()))
    outcomes = [each.outcome for each in written]
    return BatchCounts(outcomes.count("created"), outcomes.count("updated"), outcomes.count("unchanged"), newest)


def _outcome(old_value: float | None, old_us: int | None, rating: NewRating, now_us: int) -> tuple[Outcome, int]:
    """What storing the rating does, and the time it has afterwards."""
    if old_value is None or old_us is None:
        return "created", now_us if rating.rated_us is None else rating.rated_us
    if old_value == rating.value and rating.rated_us in (None, old_us):
        return "unchanged", old_us
    return "updated", now_us if rating.rated_us is None else rating.rated_us


def _upsert_one(connection: Connection, rating: NewRating, now_us: int) -> SavedRating | None:
    """As `_upsert` in a quarter of the time; None if the user or the item is new."""
    with driver(connection) as raw:
        revision, user_key, item_key, old_value, old_us = raw.execute(_LOOK_UP_ONE, rating[:2]).fetchone()
        if user_key is None or item_key is None:
            return None
        outcome, rated_us = _outcome(old_value, old_us, rating, now_us)
        if outcome != "unchanged":
            revision += 1
            raw.execute(_UPSERT, (user_key, item_key, rating.value, rated_us, revision))
            raw.execute(_COUNT_CREATED if outcome == "created" else _COUNT_UPDATED)
        if outcome == "created":
            raw.execute(_FORGET_DELETION, (user_key, item_key))
    return SavedRating(rating.user_id, rating.item_id, rating.value, time_of(rated_us), outcome, revision)


class _Written(NamedTuple):
    outcome: Outcome
    rated_us: int
    revision: int


def _upsert(connection: Connection, ratings: Sequence[NewRating], now_us: int) -> tuple[int, list[_Written]]:
    """The newest revision after the write, and what became of each rating."""
    newest, user_keys, item_keys = _keys(connection, ratings)
    pairs = [user_keys[rating.user_id] << 32 | item_keys[rating.item_id] for rating in ratings]
    with driver(connection) as raw:
        found = raw.execute(_LOOK_UP_RATINGS, (json.dumps(sorted(pairs)),))
        stored = {pair: (value, rated_us) for pair, value, rated_us in found}
        written, rows, n_new = [], [], 0
        for pair, rating in zip(pairs, ratings, strict=True):
            outcome, rated_us = _outcome(*stored.get(pair, (None, None)), rating, now_us)
            if outcome != "unchanged":
                newest += 1
                n_new += outcome == "created"
                rows.append((pair >> 32, pair & 0xFFFFFFFF, rating.value, rated_us, newest))
            written.append(_Written(outcome, rated_us, newest))
        _write(raw, rows, n_new)
    return newest, written


def _write(raw: Any, rows: list[tuple[int, int, float, int, int]], n_new: int) -> None:
    rows.sort()  # by key, the order of the table's pages
    raw.executemany(_UPSERT, rows)
    if n_new and raw.execute("SELECT EXISTS (SELECT 1 FROM deleted_ratings)").fetchone()[0]:
        raw.executemany(_FORGET_DELETION, [row[:2] for row in rows])
    raw.executemany(_COUNT, [(len(rows), "ratings"), (n_new, "n_ratings")])


def _keys(connection: Connection, ratings: Sequence[NewRating]) -> tuple[int, dict[str, int], dict[str, int]]:
    """The newest revision, and the key of each user and item; new users and items are created."""
    user_ids = dict.fromkeys(rating.user_id for rating in ratings)
    item_ids = dict.fromkeys(rating.item_id for rating in ratings)
    with driver(connection) as raw:
        parameters = json.dumps(list(user_ids)), json.dumps(list(item_ids))
        newest, users, items = raw.execute(_LOOK_UP_KEYS, parameters).fetchone()
    user_keys, item_keys = json.loads(users), json.loads(items)
    if new_users := [user_id for user_id in user_ids if user_id not in user_keys]:
        added = insert(User).from_select(["user_id"], id_column(connection, new_users))
        user_keys |= dict(connection.execute(added.returning(User.user_id, User.user_key)).all())
        advance(connection, "n_users", len(new_users))
    if new_items := [item_id for item_id in item_ids if item_id not in item_keys]:
        item_keys |= ensure_items(connection, new_items)
    return newest, user_keys, item_keys
