"""Only small answers that wait for nothing are made on the event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.db.engine import Database, open_database
from app.engine.hyperparameters import Hyperparameters
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.main import create_app
from app.recommendations import dispatch, item_lists
from app.settings import Settings
from app.training.wait_for_run import train_now
from tests.asgi import serving
from tests.recommendations.conftest import LOVE, SPACE, planted_ratings


def train(app: FastAPI, settings: Settings) -> None:
    database = open_database(settings)
    train_now(database, settings, Hyperparameters(n_factors=4, n_epochs=10))
    database.dispose()
    app.state.live.refresh()


@pytest.fixture
def app(sqlite_settings: Settings) -> FastAPI:
    return create_app(sqlite_settings)


@pytest.fixture
def client(app: FastAPI, sqlite_settings: Settings) -> Iterator[httpx.Client]:
    """A trained service that has answered once."""
    with serving(app) as client:
        client.post("/v1/ratings/batch", json={"ratings": planted_ratings()}).raise_for_status()
        items = [{"item_id": item, "title": item.upper(), "categories": [item.split("-")[0]]} for item in SPACE + LOVE]
        client.post("/v1/items/batch", json={"items": items}).raise_for_status()
        train(app, sqlite_settings)
        client.get("/v1/users/ann/recommendations").raise_for_status()
        yield client


@contextmanager
def every_connection_taken(database: Database) -> Iterator[None]:
    pool = database.engine.pool
    with ExitStack() as taken:
        while pool.checkedout() < 32:  # type: ignore[attr-defined]
            taken.enter_context(database.engine.connect())
        yield


def test_recommendations_are_answered_when_every_connection_of_the_pool_is_taken(
    app: FastAPI, client: httpx.Client
) -> None:
    with every_connection_taken(app.state.database):
        assert client.get("/v1/users/ann/recommendations").status_code == 200


def test_waiting_too_long_for_a_connection_is_answered_503(
    app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.database.engine.pool, "_timeout", 0.1)
    with every_connection_taken(app.state.database):
        answer = client.get("/v1/status")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/v1/status").status_code == 200


@pytest.fixture
def on_loop(app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each list that is scored from now on, whether that happened on the event loop."""
    seen: list[bool] = []
    for owner, name in ((BruteForceRetriever, "search"), (item_lists, "best_rows")):
        original = getattr(owner, name)

        def noted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            seen.append(is_in_a_running_loop())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)
    return seen


def is_in_a_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


LISTS = ["/v1/users/astronaut-1/recommendations", "/v1/items/popular", "/v1/items/space-1/similar"]


@pytest.mark.parametrize("path", LISTS)
def test_a_short_list_from_a_small_model_is_made_on_the_event_loop(
    client: httpx.Client, on_loop: list[bool], path: str
) -> None:
    assert client.get(path).status_code == 200
    assert on_loop == [True]


@pytest.mark.parametrize("path", [f"{path}?n=1000" for path in LISTS] + [f"{LISTS[0]}?offset=5000"])
def test_a_long_list_is_made_in_a_thread(client: httpx.Client, on_loop: list[bool], path: str) -> None:
    assert client.get(path).status_code == 200
    assert on_loop == [False]


@pytest.mark.parametrize("path", LISTS)
def test_a_large_model_is_scored_in_a_thread(
    client: httpx.Client, on_loop: list[bool], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MAX_PRODUCTS", 10)
    assert client.get(path).status_code == 200
    assert on_loop == [False]


@pytest.mark.parametrize("field", ["ratings", "exclude", "candidates"])
def test_a_long_body_is_answered_in_a_thread(client: httpx.Client, on_loop: list[bool], field: str) -> None:
    named: list[object] = [f"x{n}" for n in range(2_000)]
    if field == "ratings":
        named = [{"item_id": item, "value": 4} for item in named]
    assert client.post("/v1/recommendations", json={field: named}).status_code == 200
    assert on_loop == [False]


def test_the_list_of_a_user_with_many_ratings_is_made_in_a_thread(client: httpx.Client, on_loop: list[bool]) -> None:
    ratings = [{"user_id": "ann", "item_id": f"x{n}", "value": 4} for n in range(2_000)]
    client.post("/v1/ratings/batch", json={"ratings": ratings}).raise_for_status()
    client.get("/v1/users/romantic-1/recommendations").raise_for_status()  # updates the catalog
    client.get("/v1/users/ann/recommendations").raise_for_status()
    assert on_loop == [False, False]


def test_changed_items_are_read_in_a_thread(client: httpx.Client, on_loop: list[bool]) -> None:
    client.patch("/v1/items/space-1", json={"title": "New"}).raise_for_status()
    for n in (5, 6):
        client.get(f"/v1/users/ann/recommendations?n={n}").raise_for_status()
    assert on_loop == [False, True]


def test_a_new_version_is_ready_before_its_first_answer(
    app: FastAPI, client: httpx.Client, sqlite_settings: Settings, on_loop: list[bool]
) -> None:
    train(app, sqlite_settings)
    answer = client.get("/v1/users/ann/recommendations").json()
    assert answer["model_version"] == 2
    assert on_loop == [True]


def test_a_broken_connection_of_the_event_loop_is_replaced(app: FastAPI, client: httpx.Client) -> None:
    app.state.recommender._reader.connection.connection.driver_connection.close()
    statuses = [client.get("/v1/users/ann/recommendations").status_code for _ in range(2)]
    assert statuses == [503, 200]
