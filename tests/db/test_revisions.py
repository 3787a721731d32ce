"""Counters take numbers in transactions: a commit makes them visible, a rollback gives them back."""

from app.db.engine import Database
from app.db.revisions import advance, peek_revision, revision


def test_each_counter_counts_by_itself_and_returns_the_last_number_taken(database: Database) -> None:
    with database.write() as connection:
        assert advance(connection, "ratings", 3) == 3
        assert advance(connection, "ratings", 2) == 5
        assert advance(connection, "items", 1) == 1
    with database.read() as connection:
        assert [revision(connection, "ratings"), peek_revision(connection, "ratings")] == [5, 5]
        assert [revision(connection, "items"), peek_revision(connection, "items")] == [1, 1]


def test_a_write_that_raises_gives_its_revisions_back(database: Database) -> None:
    class Stop(Exception):
        pass

    try:
        with database.write() as connection:
            advance(connection, "ratings", 10)
            raise Stop
    except Stop:
        pass
    with database.read() as connection:
        assert revision(connection, "ratings") == 0
