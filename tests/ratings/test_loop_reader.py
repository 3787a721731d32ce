"""The event loop's own reader sees what Python's driver sees, at every moment."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import pytest

from app.db.engine import Database, open_database
from app.ratings import loop_reader, store
from app.ratings.erasure import erase_user
from app.ratings.loop_reader import LoopReader
from app.ratings.sqlite_native import NotNative
from app.ratings.store import NewRating, UserRatings
from app.settings import Settings
from tests.ratings.test_store import MONDAY, save_many


@pytest.fixture
def database(sqlite_settings: Settings):
    database = open_database(sqlite_settings)
    yield database
    database.dispose()


@contextlib.contextmanager
def reading(database: Database) -> Iterator[LoopReader]:
    with database.engine.connect() as connection:
        reader = LoopReader(database, connection)
        yield reader
        reader.close()


@pytest.fixture
def reader(database: Database):
    with reading(database) as reader:
        yield reader


def assert_same(database: Database, reader: LoopReader, *user_ids: str) -> None:
    with database.read() as connection:
        for user_id in user_ids:
            found, expected = reader.ratings_of_user(user_id), store.ratings_of_user(connection, user_id)
            assert reader.state_of_user(user_id) == store.state_of_user(connection, user_id)
            assert (found.user_key, found.newest) == (expected.user_key, expected.newest)
            assert found.item_keys.tolist() == expected.item_keys.tolist()
            assert found.values.tolist() == pytest.approx(expected.values.tolist(), rel=1e-14)


def test_every_commit_is_seen_by_the_next_question(database: Database, reader: LoopReader) -> None:
    dice = random.Random(1)
    users = ["ann", "Bén", "日本", "nobody"]
    for turn in range(60):
        user, item = dice.choice(users[:3]), f"item-{dice.randrange(12)}"
        with database.write() as connection:
            kind = dice.random()
            if kind < 0.1:
                erase_user(connection, user) if store.ratings_of_user(connection, user).user_key else None
            elif kind < 0.3 and turn:
                with contextlib.suppress(store.UnknownRating):
                    store.remove(connection, user, item)
            else:
                store.save_many(connection, [NewRating(user, item, dice.choice([0.5, 3.7, 4, 1 / 3]))], MONDAY)
        assert_same(database, reader, *users)


def test_who_has_more_ratings_than_there_is_room_for_is_read_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_reader, "ROOM", 5)
    with reading(database) as reader:
        for n in range(4, 8):
            save_many(database, *((f"user-{n}", f"item-{i}", 1.0 + i / 2) for i in range(n)))
            assert_same(database, reader, f"user-{n}")


def test_a_user_whose_ratings_are_all_gone_is_known_and_has_none(database: Database, reader: LoopReader) -> None:
    save_many(database, ("ann", "dune", 4.0))
    with database.write() as connection:
        store.remove(connection, "ann", "dune")
    assert_same(database, reader, "ann")


def test_what_was_read_stays_when_the_next_user_is_read(database: Database, reader: LoopReader) -> None:
    save_many(database, ("ann", "dune", 4.0), ("ben", "dune", 2.0))
    ann: UserRatings = reader.ratings_of_user("ann")
    reader.ratings_of_user("ben")
    np.testing.assert_array_equal(ann.values, [4.0])


def test_the_driver_reads_where_sqlite_cannot_be_called(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise NotNative("not here")

    monkeypatch.setattr(loop_reader, "KeptQuery", refuse)
    with reading(database) as reader:
        save_many(database, ("ann", "dune", 4.0))
        assert_same(database, reader, "ann", "nobody")


def test_an_error_of_sqlite_is_left_to_the_driver_to_tell(
    database: Database, reader: LoopReader, sqlite_settings: Settings
) -> None:
    save_many(database, ("ann", "dune", 4.0))
    assert_same(database, reader, "ann")
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE ratings RENAME TO elsewhere")
    assert reader._of_user is not None
    assert reader._of_user.ask("ann") is None
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO ratings")
    assert_same(database, reader, "ann")
