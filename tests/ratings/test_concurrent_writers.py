"""Many writers at once, and a writer killed in the middle."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import pytest

from app.db.engine import Database
from app.db.revisions import revision
from app.ratings import bulk_read, store, user_ratings
from app.ratings.bulk_read import load_all
from app.ratings.export import export
from app.ratings.models import NewRating
from app.settings import Settings
from tests.ratings.writing import save

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def write_a_little(database: Database, seed: int, n_writes: int) -> None:
    dice = random.Random(seed)
    for _ in range(n_writes):
        with database.write() as connection:
            user_id, item_id = f"u{dice.randrange(4)}", f"i{dice.randrange(6)}"
            kind = dice.randrange(3)
            if kind == 0:
                save(connection, user_id, item_id, dice.randrange(1, 6), None, NOW)
            elif kind == 1:
                ratings = [NewRating(user_id, f"i{item}", float(dice.randrange(1, 6))) for item in range(6)]
                store.save_many(connection, ratings, NOW)
            elif user_ratings.read_one(connection, user_id).values.size:
                try:
                    store.remove(connection, user_id, item_id)
                except store.UnknownRating:
                    connection.rollback()


@contextmanager
def writing(database: Database, n_threads: int, n_writes: int) -> Iterator[list[threading.Thread]]:
    threads = [threading.Thread(target=write_a_little, args=(database, seed, n_writes)) for seed in range(n_threads)]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def test_whoever_has_seen_a_revision_misses_nothing_before_it(database: Database) -> None:
    """Commit order is revision order: a later look never finds a change with a number seen as passed."""
    with writing(database, n_threads=4, n_writes=40) as threads:
        seen_before = 0
        while any(thread.is_alive() for thread in threads):
            with database.read() as connection:
                if not database.is_sqlite:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                newest = revision(connection, "ratings")
                numbers = connection.exec_driver_sql(
                    f"SELECT revision FROM ratings WHERE revision > {seen_before}"
                    f" UNION ALL SELECT revision FROM deleted_ratings WHERE revision > {seen_before}"
                ).scalars()
                found = sorted(numbers)
            assert len(found) == len(set(found))
            assert not found or found[-1] <= newest
            if newest > seen_before:
                assert newest in found, "the newest revision belongs to a row that can be seen"
            seen_before = newest
    with database.read() as connection:
        assert store.totals(connection).n_ratings == load_all_values(database).size


def test_a_writer_that_begins_later_never_commits_a_higher_revision_first(database: Database) -> None:
    """Two transactions interleaved: the second has all its values ready and still comes after the first."""
    events: list[str] = []

    def write_second() -> None:
        with database.write() as connection:
            save(connection, "bob", "dune", 2.0, None, NOW)
        events.append("the second has committed")

    with database.write() as first:
        saved = save(first, "ann", "dune", 4.0, None, NOW)
        second = threading.Thread(target=write_second)
        second.start()
        second.join(0.5)
        with database.read() as reader:  # a trainer that looks now has seen nothing, and will miss nothing
            assert revision(reader, "ratings") == saved.revision - 1
            assert bulk_read.changes_since(reader, 0).values.size == 0
        events.append("the first commits")
    second.join()
    assert events == ["the first commits", "the second has committed"]
    with database.read() as reader:
        changes = bulk_read.changes_since(reader, 0)
    assert sorted(changes.revisions.tolist()) == [1, 2]


def load_all_values(database: Database) -> np.ndarray:
    with database.read() as connection:
        return load_all(connection).values


def test_concurrent_writers_leave_exact_totals_and_unique_revisions(database: Database) -> None:
    with writing(database, n_threads=4, n_writes=40):
        pass
    with database.read() as connection:
        counted = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in ("ratings", "users", "items")
        ]
        numbers = list(
            connection.exec_driver_sql(
                "SELECT revision FROM ratings UNION ALL SELECT revision FROM deleted_ratings"
            ).scalars()
        )
        assert list(store.totals(connection)) == counted
        assert len(numbers) == len(set(numbers))
        assert max(numbers) == revision(connection, "ratings")


def test_everything_is_read_in_one_state_while_a_writer_is_active(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer swaps all ratings of a user between 1s and 5s; a mixture would be two states at once."""
    monkeypatch.setattr(bulk_read, "_CHUNK_PAGES", 1)
    items = [f"i{item}" for item in range(500)]
    stop = threading.Event()

    def flip() -> None:
        for value in (1.0, 5.0) * 1000:
            if stop.is_set():
                return
            with database.write() as connection:
                store.save_many(connection, [NewRating("ann", item_id, value) for item_id in items], NOW)

    with database.write() as connection:
        store.save_many(connection, [NewRating("ann", item_id, 5.0) for item_id in items], NOW)
    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(15):
            with database.read() as connection:
                found = load_all(connection)
            assert found.values.size == len(items)
            assert np.unique(found.values).size == 1
            assert found.revision % len(items) == 0
            assert found.values[0] == (5.0 if found.revision // len(items) % 2 else 1.0)
    finally:
        stop.set()
        thread.join()


def test_an_export_that_takes_its_time_shows_the_moment_it_began(database: Database) -> None:
    with database.write() as connection:
        store.save_many(connection, [NewRating("ann", f"i{item}", 5.0) for item in range(12_000)], NOW)
    with database.read() as reading:
        blocks = export(reading, "csv")
        lines = next(blocks) + next(blocks)
        with database.write() as connection:
            store.save_many(connection, [NewRating("ann", f"i{item}", 1.0) for item in range(12_000)], NOW)
        lines += b"".join(blocks)
    assert lines.count(b",5.0,") == 12_000


BATCHES = """
import sys
from app.db.engine import open_database
from app.ratings.models import NewRating
from app.ratings.store import save_many
from app.settings import Settings

database = open_database(Settings(data_dir=sys.argv[1], database_url=sys.argv[2] or None))
for batch in range(10_000):
    with database.write() as connection:
        save_many(connection, [NewRating(f"batch-{batch}", f"i{item}", 4.0) for item in range(400)])
    print(batch, flush=True)
"""


def test_of_a_batch_whose_process_is_killed_all_or_nothing_is_there(database: Database, settings: Settings) -> None:
    for attempt in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", BATCHES, str(settings.data_dir), settings.database_url or ""],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        with process.stdout:
            for _ in range(3):
                last_acknowledged = process.stdout.readline()
            time.sleep(0.013 * attempt)
            os.kill(process.pid, signal.SIGKILL)
            last_acknowledged = ([last_acknowledged, *process.stdout.readlines()])[-1]
        process.wait()
        with database.read() as connection:
            sizes = list(
                connection.exec_driver_sql(
                    "SELECT count(ratings.item_key) FROM users"
                    " LEFT JOIN ratings ON users.user_key = ratings.user_key GROUP BY users.user_id"
                ).scalars()
            )
            totals = store.totals(connection)
        assert set(sizes) == {400}
        assert len(sizes) >= int(last_acknowledged) + 1
        assert totals == (400 * len(sizes), len(sizes), 400)
        with database.write() as connection:  # the lock of the dead is gone
            save(connection, "batch-0", "i0", 1.0 + attempt, None, NOW)
