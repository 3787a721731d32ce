"""Three services side by side, as three containers are: one PostgreSQL and one folder of versions."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from app.db.engine import open_database
from app.demo.service_process import running_service
from app.settings import Settings
from tests.conftest import KERNELS
from tests.registry.world import ITEMS, publish
from tests.training.world import wait_until

N_REPLICAS = 3
FOLLOWED_WITHIN = 2.0
"""Seconds until all answer from a new version, as promised."""


@pytest.fixture
def replicas(settings: Settings) -> Iterator[list[httpx.Client]]:
    """Three service processes on one database, each asked by itself."""
    environment = {
        "PALATE_DATABASE_URL": settings.sqlalchemy_url,
        "PALATE_KERNEL_CACHE_DIR": str(KERNELS),
        "PALATE_TRAINER": "external",
    }

    def start(_number: int) -> str:
        return stack.enter_context(running_service(settings.data_dir, environment=environment)).url

    with ExitStack() as stack, ThreadPoolExecutor(N_REPLICAS) as threads:
        urls = list(threads.map(start, range(N_REPLICAS)))
        yield [stack.enter_context(httpx.Client(base_url=url, timeout=60)) for url in urls]


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_rating_posted_to_one_changes_the_next_answer_of_the_others(replicas: list[httpx.Client]) -> None:
    rate(replicas[0], "bob", *ITEMS)
    for client in replicas:
        wait_until(lambda client=client: listed_for_ann(client) == set(ITEMS))  # popular items may lag a little
    for number, item in enumerate(ITEMS):
        rate(replicas[number % N_REPLICAS], "ann", item)
        assert [listed_for_ann(client) for client in replicas] == [set(ITEMS[number + 1 :])] * N_REPLICAS


@pytest.mark.soak  # by the clock, so on a quiet machine only
@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_all_answer_from_a_new_version_within_two_seconds(replicas: list[httpx.Client], settings: Settings) -> None:
    database = open_database(settings)
    for mean in (3.0, 4.0):
        version = publish(database, settings.versions_dir, mean)
        deadline = time.monotonic() + FOLLOWED_WITHIN
        waiting = list(replicas)
        while waiting and time.monotonic() < deadline:
            waiting = [client for client in waiting if version_of(client) != version]
        assert not waiting
    database.dispose()


def rate(client: httpx.Client, user: str, *items: str) -> None:
    ratings = [{"user_id": user, "item_id": item, "value": 4} for item in items]
    client.post("/v1/ratings/batch", json={"ratings": ratings}).raise_for_status()


def listed_for_ann(client: httpx.Client) -> set[str]:
    """What she has rated is left out."""
    return {item["item_id"] for item in client.get("/v1/users/ann/recommendations").json()["items"]}


def version_of(client: httpx.Client) -> int | None:
    answered: int | None = client.get("/v1/items/popular").json()["model_version"]
    return answered
