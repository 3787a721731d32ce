"""Cached lists include every committed change, by this process or another one."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from app.main import create_app
from app.ratings.user_ratings import CoalescedReader, CurrentRatings, RatingsState
from app.recommendations import lists
from app.settings import Settings
from tests.asgi import serving
from tests.recommendations.conftest import LOVE, SPACE, Planted

# One rating (a value), one deletion (no value) or one title (no user) a line, each committed before it is acknowledged.
OTHER_PROCESS = """
import sys
from app.db.engine import open_database
from app.db.tables import utc_now
from app.items import store as items
from app.ratings import store
from app.settings import Settings
from tests.ratings.writing import save

database = open_database(Settings.model_validate_json(sys.stdin.readline()))
for line in sys.stdin:
    user_id, item_id, value = line.rstrip("\\n").split("\\t")
    with database.write() as connection:
        if not user_id:
            items.write_many(connection, {item_id: {"title": value, "hidden": value.startswith("hidden")}})
        elif value:
            save(connection, user_id, item_id, float(value), None, utc_now())
        else:
            store.remove(connection, user_id, item_id)
    print("committed", flush=True)
"""


@contextmanager
def another_process(settings: Settings) -> Iterator[Callable[[str, str, str], None]]:
    command = [sys.executable, "-c", OTHER_PROCESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        answers = process.stdout

        def tell(line: str) -> None:
            assert process.stdin
            process.stdin.write(line + "\n")
            process.stdin.flush()

        def commit(user_id: str, item_id: str, value: str) -> None:
            tell(f"{user_id}\t{item_id}\t{value}")
            assert answers.readline() == "committed\n"

        tell(settings.model_dump_json())
        yield commit
        process.stdin.close()


def test_a_commit_of_another_process_is_in_the_next_list(planted: Planted, settings: Settings) -> None:
    client, train = planted
    train()
    dice = random.Random(8)
    uncached = settings.model_copy(update={"user_cache_size": 0})
    rated: set[tuple[str, str]] = set()
    with another_process(settings) as commit, serving(create_app(uncached)) as uncached_client:
        for step in range(60):
            user, item = dice.choice(["ann", "astronaut-1"]), dice.choice(SPACE + LOVE)
            kind = dice.random()
            if kind < 0.15:
                commit("", item, f"{dice.choice(['hidden', 'shown'])} {step}")
            elif kind < 0.4 and rated:
                commit(*rated.pop(), "")
            elif kind < 0.8:
                commit(user, item, str(dice.randint(1, 10) / 2))
                rated.add((user, item))
            for user in ("ann", "astronaut-1", "stranger"):
                for query in ("", "?n=3&category=space"):
                    path = f"/v1/users/{user}/recommendations{query}"
                    assert client.get(path).content == uncached_client.get(path).content


def test_a_list_is_not_made_again_while_nothing_changes_for_its_user(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, train = planted
    train()
    made: list[str] = []
    original = lists._list

    def noted(*args, **kwargs):
        made.append("list")
        return original(*args, **kwargs)

    monkeypatch.setattr(lists, "_list", noted)

    def ask(user: str = "ann") -> bool:
        made.clear()
        client.get(f"/v1/users/{user}/recommendations").raise_for_status()
        return bool(made)

    assert [ask(), ask()] == [True, False]
    client.post("/v1/ratings", json={"user_id": "ben", "item_id": "love-1", "value": 3}).raise_for_status()
    assert [ask(), ask("ben")] == [False, True]
    client.post("/v1/ratings", json={"user_id": "ann", "item_id": "love-1", "value": 3}).raise_for_status()
    assert [ask(), ask()] == [True, False]
    client.patch("/v1/items/love-1", json={"hidden": True}).raise_for_status()
    assert [ask(), ask()] == [True, False]
    train()
    assert [ask(), ask()] == [True, False]


def test_a_user_whom_the_cache_drops_during_a_coalesced_read_is_answered_all_the_same(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, train = planted
    train()
    before = client.get("/v1/users/ann/recommendations").content
    original = CoalescedReader.read

    async def dropped_meanwhile(self: CoalescedReader, user_id: str, cached: RatingsState | None) -> CurrentRatings:
        current = await original(self, user_id, cached)
        return current._replace(ratings=None, state=RatingsState(None, -1, -1))

    monkeypatch.setattr(CoalescedReader, "read", dropped_meanwhile)
    assert client.get("/v1/users/ann/recommendations").content == before
