"""What is read is what the database holds when the request comes, for one user or many at once."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from app.db.engine import Database, open_database
from app.db.revisions import revision
from app.ratings import store, user_ratings
from app.ratings.erasure import erase_user
from app.ratings.models import NewRating
from app.ratings.user_ratings import CoalescedReader, CurrentRatings
from app.settings import Settings
from tests.conftest import empty_postgres
from tests.ratings.test_store import MONDAY, save_many

USERS = ["ann", "Bén", "日本", "o'hara", "nobody"]


@pytest.mark.parametrize("values", [[4.5, 3.0, -2.125], [4.3, 3.0, 0.1], [1e20, -7.5, 3.0], [1e-7, 2.0, 2**-30]])
def test_a_users_values_come_back_as_they_were_written(database: Database, values: list[float]) -> None:
    save_many(database, *(("ann", f"i{item}", value) for item, value in enumerate(values)))
    with database.read() as connection:
        stored = user_ratings.read_one(connection, "ann").values.tolist()
    assert stored == pytest.approx(values, rel=1e-14, abs=0)


def test_a_user_whose_ratings_are_deleted_and_an_unknown_user_have_none(database: Database) -> None:
    save_many(database, ("ann", "dune", 4))
    with database.write() as connection:
        store.remove(connection, "ann", "dune")
    with database.read() as connection:
        ann, nobody = user_ratings.read_one(connection, "ann"), user_ratings.read_one(connection, "nobody")
    assert ann.state.user_key is not None
    assert ann.item_keys.size == ann.values.size == ann.state.newest == 0
    assert nobody.state.user_key is None
    assert nobody.item_keys.size == 0


def test_many_users_read_together_have_the_ratings_that_each_has_alone(database: Database) -> None:
    save_many(
        database, *((f"u{user}", f"i{item}", float(1 + (user * item) % 5)) for user in range(7) for item in range(user))
    )
    names = [f"u{user}" for user in range(9)]
    with database.read() as connection:
        together = user_ratings.read_many(connection, names)
        for name in names[1:7]:
            alone = user_ratings.read_one(connection, name)
            assert together[name].item_keys.tolist() == alone.item_keys.tolist() == sorted(alone.item_keys)
            assert together[name].values.tolist() == alone.values.tolist()
            assert together[name].state == alone.state == user_ratings.read_state(connection, name)
    assert set(together) == set(names[1:7])


def test_the_state_of_a_user_changes_with_every_change_of_the_ratings_and_with_nothing_else(database: Database) -> None:
    def state() -> user_ratings.RatingsState:
        with database.read() as connection:
            found = user_ratings.read_state(connection, "ann")
            assert user_ratings.read_one(connection, "ann").state == found
            return found

    seen = [state()]
    for act in (
        lambda: save_many(database, ("ann", "dune", 3), ("ann", "heat", 4)),
        lambda: save_many(database, ("ann", "dune", 5)),
        lambda: remove(database, "ann", "heat"),
        lambda: save_many(database, ("ann", "heat", 4)),
        lambda: remove(database, "ann", "heat"),
        lambda: erase(database, "ann"),
        lambda: save_many(database, ("ann", "dune", 5)),
    ):
        act()
        seen.append(state())
        save_many(database, ("bob", "dune", 3.0 + len(seen) / 100))
        assert state() == seen[-1]
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert seen[3] == seen[5]  # the same ratings
    assert seen[0] == seen[6]  # nobody


def remove(database: Database, user_id: str, item_id: str) -> None:
    with database.write() as connection:
        store.remove(connection, user_id, item_id)


def erase(database: Database, user_id: str) -> None:
    with database.write() as connection:
        erase_user(connection, user_id)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path):
    with empty_postgres(request) as url:
        database = open_database(Settings(data_dir=tmp_path, database_url=url))
        yield database
        database.dispose()


def read(postgres: Database, *asked: tuple[str, user_ratings.RatingsState | None]) -> list[CurrentRatings]:
    async def together() -> list[CurrentRatings]:
        reader = CoalescedReader(postgres)
        return await asyncio.gather(*(reader.read(user_id, known) for user_id, known in asked))

    return asyncio.run(together())


def test_a_coalesced_read_finds_what_a_read_of_one_user_finds(postgres: Database) -> None:
    dice = random.Random(3)
    known: dict[str, user_ratings.RatingsState | None] = dict.fromkeys(USERS)
    for _ in range(25):
        with postgres.write() as connection:
            rating = NewRating(dice.choice(USERS[:4]), f"item-{dice.randrange(9)}", dice.choice([0.5, 3.7, 1 / 3]))
            store.save_many(connection, [rating], MONDAY)
        found = read(postgres, *known.items())
        with postgres.read() as connection:
            items_revision = revision(connection, "items")
            for user_id, each in zip(USERS, found, strict=True):
                expected = user_ratings.read_one(connection, user_id)
                assert (each.items_revision, each.state) == (items_revision, expected.state)
                assert (each.ratings is None) == (known[user_id] == expected.state)
                if each.ratings is not None:
                    assert each.ratings.state == expected.state
                    assert each.ratings.item_keys.tolist() == expected.item_keys.tolist()
                    assert each.ratings.values.tolist() == expected.values.tolist()
        known = {user_id: dice.choice([each.state, None]) for user_id, each in zip(USERS, found, strict=True)}


def test_ratings_are_read_only_for_requests_that_have_not_cached_them(postgres: Database) -> None:
    save_many(postgres, ("ann", "dune", 4.0))
    [found] = read(postgres, ("ann", None))
    twice = read(postgres, ("ann", found.state), ("ann", None))
    unread, again = twice
    assert again.ratings is not None
    assert again.ratings.values.tolist() == [4.0]
    assert unread.ratings is None


def test_requests_that_arrive_during_one_read_share_the_next(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_many(postgres, *((f"user-{n}", "dune", 4.0) for n in range(20)))
    reads: list[list[str]] = []
    original = CoalescedReader._read

    def record(self: CoalescedReader, queries: Sequence[user_ratings._Query]) -> list[CurrentRatings]:
        reads.append([query.user_id for query in queries])
        return original(self, queries)

    monkeypatch.setattr(CoalescedReader, "_read", record)

    async def come() -> None:
        reader = CoalescedReader(postgres)
        first = asyncio.create_task(reader.read("user-0", None))
        while not reads:
            await asyncio.sleep(0)
        await asyncio.gather(first, *(reader.read(f"user-{n}", None) for n in range(1, 20)))

    asyncio.run(come())
    assert reads == [["user-0"], [f"user-{n}" for n in range(1, 20)]]


def test_a_database_error_reaches_every_request_of_the_group_and_the_next_read_succeeds(postgres: Database) -> None:
    save_many(postgres, ("ann", "dune", 4.0))

    async def both(reader: CoalescedReader) -> list[object]:
        return await asyncio.gather(reader.read("ann", None), reader.read("ben", None), return_exceptions=True)

    async def come() -> tuple[list[object], list[object]]:
        reader = CoalescedReader(postgres)
        with postgres.write() as connection:
            connection.exec_driver_sql("ALTER TABLE ratings RENAME TO elsewhere")
        failed = await both(reader)
        with postgres.write() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO ratings")
        return failed, await both(reader)

    failed, found = asyncio.run(come())
    assert all(isinstance(each, DBAPIError) for each in failed)
    assert [each.state.n_ratings for each in found if isinstance(each, CurrentRatings)] == [1, 0]
