"""What a look finds is what the database holds after the request came, for one user or many at once."""

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from app.db.engine import Database, open_database
from app.db.revisions import revision
from app.ratings import store
from app.ratings.store import NewRating
from app.ratings.user_ratings import Look, Looks, NotLookedAt
from app.settings import Settings
from tests.conftest import empty_postgres
from tests.ratings.test_store import MONDAY, save_many

USERS = ["ann", "Bén", "日本", "o'hara", "nobody"]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path):
    with empty_postgres(request) as url:
        database = open_database(Settings(data_dir=tmp_path, database_url=url))
        yield database
        database.dispose()


def look(database: Database, *asked: tuple[str, store.StateOfRatings | None]) -> list[Look]:
    async def together() -> list[Look]:
        looks = Looks(database)
        return await asyncio.gather(*(looks.at(user_id, known) for user_id, known in asked))

    return asyncio.run(together())


def test_a_look_finds_what_a_reader_reads(database: Database) -> None:
    dice = random.Random(3)
    known: dict[str, store.StateOfRatings | None] = dict.fromkeys(USERS)
    for _ in range(25):
        with database.write() as connection:
            rating = NewRating(dice.choice(USERS[:4]), f"item-{dice.randrange(9)}", dice.choice([0.5, 3.7, 1 / 3]))
            store.save_many(connection, [rating], MONDAY)
        found = look(database, *known.items())
        with database.read() as connection:
            items_revision = revision(connection, "items")
            for user_id, each in zip(USERS, found, strict=True):
                expected = store.ratings_of_user(connection, user_id)
                assert (each.items_revision, each.state) == (items_revision, expected.state)
                assert (each.ratings is None) == (known[user_id] == expected.state)
                if each.ratings is not None:
                    assert each.ratings.state == expected.state
                    assert each.ratings.item_keys.tolist() == expected.item_keys.tolist()
                    assert each.ratings.values.tolist() == expected.values.tolist()
        known = {user_id: dice.choice([each.state, None]) for user_id, each in zip(USERS, found, strict=True)}


def test_a_user_asked_for_twice_is_read_where_one_of_the_two_does_not_know_the_ratings(database: Database) -> None:
    save_many(database, ("ann", "dune", 4.0))
    [found] = look(database, ("ann", None))
    twice = look(database, ("ann", found.state), ("ann", None))
    assert [each.ratings.values.tolist() for each in twice if each.ratings] == [[4.0], [4.0]]
    [unread] = look(database, ("ann", found.state))
    with pytest.raises(NotLookedAt):
        unread.ratings_of_user("ann")


def test_requests_that_come_while_one_look_is_on_its_way_share_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_many(database, *((f"user-{n}", "dune", 4.0) for n in range(20)))
    asked: list[list[str]] = []
    ask = Looks._ask
    monkeypatch.setattr(Looks, "_ask", lambda self, known: (asked.append(list(known)), ask(self, known))[1])

    async def come() -> None:
        looks = Looks(database)
        first = asyncio.create_task(looks.at("user-0", None))
        while not asked:
            await asyncio.sleep(0)
        await asyncio.gather(first, *(looks.at(f"user-{n}", None) for n in range(1, 20)))

    asyncio.run(come())
    assert asked == [["user-0"], [f"user-{n}" for n in range(1, 20)]]


def test_what_the_database_raises_reaches_everybody_and_the_next_look_is_made(database: Database) -> None:
    save_many(database, ("ann", "dune", 4.0))

    async def both(looks: Looks) -> list[object]:
        return await asyncio.gather(looks.at("ann", None), looks.at("ben", None), return_exceptions=True)

    async def come() -> tuple[list[object], list[object]]:
        looks = Looks(database)
        with database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE ratings RENAME TO elsewhere")
        failed = await both(looks)
        with database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO ratings")
        return failed, await both(looks)

    failed, found = asyncio.run(come())
    assert all(isinstance(each, DBAPIError) for each in failed)
    assert [each.state.n_ratings for each in found if isinstance(each, Look)] == [1, 0]
