"""The arrays of all ratings, and of changes, agree with what is stored."""

import random
from datetime import UTC, datetime

import numpy as np
import pytest

from app.db.engine import Database
from app.ratings import bulk_read, store
from app.ratings.models import NewRating

MOMENT = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * 1_000_000


def fill(database: Database, ratings: list[NewRating]) -> None:
    with database.write() as connection:
        store.save_many(connection, ratings)


def some_ratings(n_users: int, n_items: int) -> list[NewRating]:
    dice = random.Random(7)
    return [
        NewRating(f"u{user}", f"i{item}", dice.randrange(1, 11) / 2, MOMENT + dice.randrange(10**9))
        for user in range(n_users)
        for item in range(n_items)
        if dice.random() < 0.5
    ]


def test_the_arrays_hold_every_stored_rating(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_read, "_CHUNK_PAGES", 3)
    fill(database, some_ratings(120, 50))
    with database.read() as connection:
        found = bulk_read.load_all(connection)
        stored = connection.exec_driver_sql("SELECT user_key, item_key, value FROM ratings").all()
    columns = (found.user_keys, found.item_keys, found.values)
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(map(tuple, stored))
    assert [column.dtype for column in columns] == [np.int32, np.int32, np.float32]
    assert found.revision == len(stored)


def test_an_empty_store_gives_empty_arrays(database: Database) -> None:
    with database.read() as connection:
        found = bulk_read.load_all(connection)
    assert (found.values.size, found.values.dtype, found.revision) == (0, np.float32, 0)
