"""Erasing users and items."""

import pytest

from app.db.engine import Database
from app.items import store as items
from app.items.store import UnknownItem
from app.ratings import store, user_ratings
from app.ratings.erasure import erase_item, erase_user
from app.ratings.models import NewRating
from app.ratings.store import UnknownUser


@pytest.fixture
def rated(database: Database) -> Database:
    with database.write() as connection:
        pairs = [("ann", "dune"), ("ann", "heat"), ("bob", "dune")]
        store.save_many(connection, [NewRating(user_id, item_id, 4.0) for user_id, item_id in pairs])
    return database


def text_columns(database: Database) -> set[str]:
    with database.read() as connection:
        return {
            value
            for table, column in (("users", "user_id"), ("items", "item_id"))
            for value in connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalars()
        }


def test_erasing_a_user_removes_the_name_and_every_rating_and_says_how_many(rated: Database) -> None:
    with rated.write() as connection:
        assert erase_user(connection, "ann") == (2, 5)
    assert text_columns(rated) == {"bob", "dune", "heat"}
    with rated.read() as connection:
        assert user_ratings.read_one(connection, "ann").state.user_key is None
        assert user_ratings.read_one(connection, "bob").values.tolist() == [4.0]
        assert store.count_changes_since(connection, 3) == 2
        kept = connection.exec_driver_sql("SELECT * FROM deleted_ratings ORDER BY revision").all()
    assert [row[2] for row in kept] == [4, 5]
    assert all(isinstance(value, int) for row in kept for value in row)


def test_a_user_who_comes_back_is_somebody_new(rated: Database) -> None:
    with rated.write() as connection:
        old_key = user_ratings.read_one(connection, "ann").state.user_key
        erase_user(connection, "ann")
        store.save_many(connection, [NewRating("ann", "dune", 1.0)])
        new_key = user_ratings.read_one(connection, "ann").state.user_key
    assert old_key is not None
    assert new_key is not None
    assert new_key > old_key


def test_erasing_a_user_twice_is_refused_the_second_time(rated: Database) -> None:
    with rated.write() as connection:
        erase_user(connection, "ann")
    with pytest.raises(UnknownUser), rated.write() as connection:
        erase_user(connection, "ann")


def test_erasing_an_item_removes_it_and_every_rating_of_it(rated: Database) -> None:
    with rated.write() as connection:
        key = items.key_of(connection, "dune")
        assert erase_item(connection, "dune") == (2, 5)
    assert text_columns(rated) == {"ann", "bob", "heat"}
    with rated.read() as connection:
        assert user_ratings.read_one(connection, "bob").values.tolist() == []
        changes = items.catalog_changes(connection, 2)
        assert (list(changes.changed), changes.deleted, changes.revision) == ([], [key], 3)


def test_an_item_that_comes_back_has_a_new_key(rated: Database) -> None:
    with rated.write() as connection:
        old_key = items.key_of(connection, "dune")
        erase_item(connection, "dune")
        store.save_many(connection, [NewRating("bob", "dune", 1.0)])
        assert items.key_of(connection, "dune") > old_key


def test_erasing_an_unknown_item_is_refused(rated: Database) -> None:
    with pytest.raises(UnknownItem), rated.write() as connection:
        erase_item(connection, "nothing")
