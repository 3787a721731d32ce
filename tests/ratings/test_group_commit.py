"""Ratings of requests that arrive together share a transaction and nothing else."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from app.db.engine import Database, open_database
from app.db.revisions import revision
from app.ratings import store
from app.ratings.group_commit import open_writer
from app.ratings.models import NewRating, SavedRating
from app.settings import Settings
from tests.ratings.writing import save

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def save_together(database: Database, ratings: Sequence[NewRating]) -> list[SavedRating | BaseException]:
    async def run() -> list[SavedRating | BaseException]:
        writer = open_writer(database)
        return await asyncio.gather(*(writer.submit(rating[:2], rating) for rating in ratings), return_exceptions=True)

    return asyncio.run(run())


def saved_together(database: Database, ratings: Sequence[NewRating]) -> list[SavedRating]:
    saved = save_together(database, ratings)
    assert all(isinstance(one, SavedRating) for one in saved), saved
    return saved  # type: ignore[return-value]


def n_stored(database: Database) -> tuple[int, int]:
    """Counted ratings, and ratings that the totals speak of."""
    with database.read() as connection:
        counted = connection.exec_driver_sql("SELECT count(*) FROM ratings").scalar_one()
        return counted, store.totals(connection).n_ratings


def test_each_is_answered_as_if_they_had_come_one_by_one(database: Database) -> None:
    with database.write() as connection:
        store.save_many(connection, [NewRating("ann", "dune", 3.0), NewRating("ann", "heat", 3.0)], NOW)
    given = [NewRating("ann", "dune", 3.0), NewRating("ann", "heat", 4.0), NewRating("bob", "heat", 5.0, 7_000_000)]
    saved = saved_together(database, given)
    assert [(one.outcome, one.revision, one.value) for one in saved] == [
        ("unchanged", 2, 3.0),
        ("updated", 3, 4.0),
        ("created", 4, 5.0),
    ]
    assert saved[0].rated_at == NOW
    assert saved[2].rated_at == datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)


def test_opinions_of_one_pair_are_given_one_after_the_other(database: Database) -> None:
    saved = saved_together(database, [NewRating("ann", "dune", value) for value in (1.0, 2.0, 2.0, 5.0)])
    assert [(one.outcome, one.revision) for one in saved] == [
        ("created", 1),
        ("updated", 2),
        ("unchanged", 2),
        ("updated", 3),
    ]
    with database.read() as connection:
        assert store.get(connection, "ann", "dune").value == 5.0


def test_many_at_once_are_committed_in_few_transactions_before_any_answer(database: Database) -> None:
    commits = []
    event.listen(database.engine, "commit", commits.append)
    saved = saved_together(database, [NewRating(f"u{n % 7}", f"i{n}", 4.0) for n in range(100)])
    assert sorted(one.revision for one in saved) == list(range(1, 101))
    assert len(commits) <= 2
    assert n_stored(database) == (100, 100)


def test_what_fails_fails_for_all_that_were_written_together_and_stores_nothing(database: Database) -> None:
    ratings = [NewRating("ann", f"i{n}", 4.0) for n in range(5)]
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE ratings RENAME TO away")
    assert all(isinstance(one, DBAPIError) for one in save_together(database, ratings))
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO ratings")
    assert n_stored(database) == (0, 0)
    with database.read() as connection:
        assert revision(connection, "ratings") == revision(connection, "items") == 0
    assert [one.revision for one in saved_together(database, ratings)] == [1, 2, 3, 4, 5]


def test_a_request_that_is_given_up_takes_no_other_along(database: Database) -> None:
    async def run() -> list[SavedRating | BaseException]:
        writer = open_writer(database)
        saving = [asyncio.ensure_future(writer.submit(n, NewRating("ann", f"i{n}", 4.0))) for n in range(3)]
        await asyncio.sleep(0)
        saving[0].cancel()
        return await asyncio.gather(*saving, return_exceptions=True)

    given_up, *others = asyncio.run(run())
    assert isinstance(given_up, asyncio.CancelledError)
    assert [one.outcome for one in others if isinstance(one, SavedRating)] == ["created", "created"]
    assert n_stored(database) == (3, 3)


def test_several_processes_worth_of_writers_leave_exact_totals_and_unique_revisions(
    database: Database, settings: Settings
) -> None:
    answers: list[SavedRating] = []

    def work(worker: int) -> None:
        own = open_database(settings)
        for turn in range(10):
            answers.extend(saved_together(own, [NewRating(f"u{worker}", f"i{turn}-{n}", 4.0) for n in range(8)]))
        own.dispose()

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(one.revision for one in answers) == list(range(1, 241))
    assert n_stored(database) == (240, 240)


@pytest.mark.parametrize("second", ["save", "save_many"])
def test_a_writer_that_began_later_gets_later_revisions_and_commits_later(database: Database, second: str) -> None:
    """Interleaved transactions: whoever has seen revision 2 has also seen revision 1."""
    finished = threading.Event()

    def write() -> None:
        with database.write() as connection:
            if second == "save":
                save(connection, "ann", "heat", 4.0, None, NOW)
            else:
                store.save_many(connection, [NewRating("ann", "heat", 4.0)], NOW)
        finished.set()

    later = threading.Thread(target=write)
    with database.write() as connection:
        assert save(connection, "ann", "dune", 3.0, None, NOW).revision == 1
        later.start()
        assert not finished.wait(0.3)  # it waits for its turn
        with database.read() as reading:
            assert revision(reading, "ratings") == 0
    later.join()
    with database.read() as connection:
        revisions = [store.get(connection, "ann", item_id).revision for item_id in ("dune", "heat")]
        assert revisions == [1, 2]
        assert store.totals(connection) == (2, 1, 2)
