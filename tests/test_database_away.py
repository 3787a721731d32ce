"""A PostgreSQL server that goes away under a running service, and comes back."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import migrations
from app.db.engine import open_database
from app.db.postgres import DatabaseAway
from app.demo.service_process import running_service
from app.main import create_app
from app.settings import Settings
from tests.asgi import serving
from tests.conftest import KERNELS
from tests.stoppable_postgres import StoppablePostgres, stoppable_postgres
from tests.training.world import fill, train, wait_until

WAYS = ("stopped", "frozen")
GIVEN = {"ratings": [{"item_id": "item-1", "value": 5}, {"item_id": "item-2", "value": 1}], "n": 5}
RATING = {"user_id": "ann", "item_id": "item-1", "value": 4}
IN_MEMORY = [
    ("GET", "/v1/items/popular", None),
    ("GET", "/v1/items/item-3/similar", None),
    ("POST", "/v1/recommendations", GIVEN),
]
IN_THE_DATABASE = [
    ("GET", "/v1/users/user-1/recommendations", None),
    ("GET", "/v1/users/user-1/predictions/item-2", None),
    ("GET", "/v1/users/user-1/ratings", None),
    ("GET", "/v1/status", None),
    ("POST", "/v1/ratings", RATING),
    ("POST", "/v1/ratings/batch", {"ratings": [RATING]}),
]


@pytest.fixture
def postgres() -> Iterator[StoppablePostgres]:
    with stoppable_postgres() as server:
        yield server


@pytest.fixture
def trained(postgres: StoppablePostgres, tmp_path: Path) -> Settings:
    """Settings of a service with a version, on a server that may go away."""
    settings = Settings(data_dir=tmp_path, database_url=postgres.url, trainer="external", kernel_cache_dir=KERNELS)
    database = open_database(settings)
    migrations.upgrade(database, settings)
    fill(database)
    train(database, settings)
    database.dispose()
    return settings


def asked(client: httpx.Client, question: tuple[str, str, Any]) -> httpx.Response:
    method, path, body = question
    return client.request(method, path, json=body)


@pytest.mark.parametrize("how", WAYS)
def test_what_needs_no_database_is_answered_while_it_is_away_and_the_rest_is_told_to_try_again(
    postgres: StoppablePostgres, trained: Settings, how: str
) -> None:
    with serving(create_app(trained)) as client:
        before = [asked(client, question).json() for question in IN_MEMORY]
        assert asked(client, IN_THE_DATABASE[0]).status_code == 200
        postgres.leave(how)
        try:
            for question in IN_THE_DATABASE:
                answer = asked(client, question)
                assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), question
                assert answer.headers["content-type"] == "application/problem+json"
            assert [asked(client, question).json() for question in IN_MEMORY] == before
            many = client.post("/v1/recommendations", json=GIVEN | {"n": 40}).json()["items"]
            assert len(many) > len(before[-1]["items"]), "items that were never told of before are listed as well"
            assert (client.get("/readyz").status_code, client.get("/readyz").json()["database"]) == (503, False)
            assert client.get("/healthz").status_code == 200
        finally:
            postgres.come_back(how)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        for question in (*IN_THE_DATABASE, *IN_MEMORY):
            assert asked(client, question).status_code in (200, 201), question
        assert client.get("/v1/users/ann/ratings/item-1").json()["value"] == 4


def test_an_item_that_no_version_knows_needs_the_database(postgres: StoppablePostgres, trained: Settings) -> None:
    with serving(create_app(trained)) as client:
        assert client.get("/v1/items/unknown/similar").status_code == 404
        postgres.leave("stopped")
        assert client.get("/v1/items/unknown/similar").status_code == 503


def test_without_a_version_nothing_is_in_memory(postgres: StoppablePostgres, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=postgres.url, trainer="external", kernel_cache_dir=KERNELS)
    database = open_database(settings)
    migrations.upgrade(database, settings)
    database.dispose()
    with serving(create_app(settings)) as client:
        assert client.get("/v1/items/popular").status_code == 200
        postgres.leave("stopped")
        assert client.get("/v1/items/popular").status_code == 503


def test_a_statement_that_takes_too_long_is_given_up(postgres: StoppablePostgres, trained: Settings) -> None:
    """Another transaction holds the row that every writer must have."""
    hasty = trained.model_copy(update={"database_statement_timeout": trained.training.poll_interval})
    database = open_database(trained)
    with serving(create_app(hasty)) as client:
        with database.write() as connection:
            connection.exec_driver_sql("SELECT * FROM counters FOR UPDATE").all()
            answer = client.post("/v1/ratings", json=RATING)
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
        assert client.post("/v1/ratings", json=RATING).status_code == 201
    database.dispose()


@pytest.mark.parametrize("block", ["read", "read_at_once", "write", "write_at_once"])
def test_nobody_waits_for_a_server_that_is_known_to_be_away(trained: Settings, block: str) -> None:
    database = open_database(trained)
    with getattr(database, block)() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    assert database._monitor
    database._monitor.is_away = True
    with pytest.raises(DatabaseAway), getattr(database, block)():
        pass
    database.dispose()


AWAY_SECONDS = float(os.environ.get("PALATE_TEST_AWAY_SECONDS", "20"))


class Load:
    """Clients that write and ask without a pause, and note every answer with the moment it came."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, float, str, int, str | None]] = []
        """(asked at, answered at, what, status, retry-after)"""
        self.acknowledged: dict[tuple[str, str], float] = {}
        self.failed: list[str] = []
        self._url, self._stop = url, threading.Event()
        kinds = [*(self._write for _ in range(4)), *(self._ask for _ in range(4))]
        self._threads = [threading.Thread(target=kind, args=(number,)) for number, kind in enumerate(kinds)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        """Every pair is written by one thread alone, so that the last acknowledged value is the one to be found."""
        dice, n_written = random.Random(writer), 0
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                user_id, item_id = f"writer-{writer}-{n_written // 40}", f"item-{n_written % 40}"
                value = dice.randrange(1, 11) / 2
                body = {"user_id": user_id, "item_id": item_id, "value": value}
                if self._asked(client, "write", "POST", "/v1/ratings", body) in (200, 201):
                    self.acknowledged[user_id, item_id] = value
                    n_written += 1

    def _ask(self, asker: int) -> None:
        questions = {
            "popular": ("GET", "/v1/items/popular", None),
            "similar": ("GET", "/v1/items/item-3/similar", None),
            "given": ("POST", "/v1/recommendations", GIVEN),
            "of user": ("GET", f"/v1/users/user-{asker}/recommendations", None),
            "ready": ("GET", "/readyz", None),
        }
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                for what, (method, path, body) in questions.items():
                    self._asked(client, what, method, path, body)

    def _asked(self, client: httpx.Client, what: str, method: str, path: str, body: Any) -> int:
        asked_at = time.monotonic()
        try:
            answer = client.request(method, path, json=body)
        except httpx.TransportError as error:
            self.failed.append(f"{what}: {error!r}")
            return 0
        self.answers.append((asked_at, time.monotonic(), what, answer.status_code, answer.headers.get("retry-after")))
        if answer.status_code == 503:
            time.sleep(0.05)
        return answer.status_code


@pytest.mark.soak
@pytest.mark.parametrize("how", WAYS)
def test_a_database_that_is_away_for_20_seconds_under_load_costs_no_acknowledged_rating(
    postgres: StoppablePostgres, trained: Settings, how: str
) -> None:
    environment = {
        "PALATE_DATABASE_URL": postgres.url,
        "PALATE_KERNEL_CACHE_DIR": str(KERNELS),
        "PALATE_RETRAIN_ENABLED": "false",
    }
    with running_service(trained.data_dir, environment=environment) as service:
        with Load(service.url) as load:
            time.sleep(3)
            postgres.leave(how)
            left = time.monotonic()
            time.sleep(AWAY_SECONDS)
            back = time.monotonic()
            postgres.come_back(how)
            time.sleep(5)
        assert service.process.poll() is None
        with httpx.Client(base_url=service.url, timeout=30) as client:
            wait_until(lambda: client.get("/readyz").status_code == 200, 10)
            found = {
                (user_id, rating["item_id"]): rating["value"]
                for user_id in {user_id for user_id, _ in load.acknowledged}
                for rating in client.get(f"/v1/users/{user_id}/ratings?limit=100").json()["ratings"]
            }
    assert not load.failed
    assert {pair: found.get(pair) for pair in load.acknowledged} == load.acknowledged

    settled = [each for each in load.answers if left + 4 < each[0] < back - 0.5]
    by_kind = Counter((what, status) for _, _, what, status, _ in settled)
    print(f"\n{how}: {len(load.acknowledged)} ratings acknowledged, all found; while away: {dict(by_kind)}")  # noqa: T201
    print(f"longest answer: {max(answered - asked for asked, answered, *_ in load.answers):.2f} s")  # noqa: T201
    needs_none = {"popular", "similar", "given"}
    assert {what for what, status in by_kind if status == 200} >= needs_none
    surprises = [
        f"{what} asked {back - asked:.2f} s before the end of it, answered {status} after {answered - asked:.2f} s"
        for asked, answered, what, status, _ in settled
        if status < 300 and what not in needs_none
    ]
    assert not surprises
    assert {what for what, status in by_kind if status == 503} == {"write", "of user", "ready"}
    assert all(retry == "1" for _, _, what, status, retry in settled if status == 503 and what != "ready")
    assert {status for *_, status, _ in load.answers} <= {200, 201, 503}
    after = [status for asked, _, what, status, _ in load.answers if asked > back + 4 and what != "ready"]
    assert after
    assert set(after) <= {200, 201}
