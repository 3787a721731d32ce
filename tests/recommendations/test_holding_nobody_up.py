"""What is answered on the event loop is small, and waits for nothing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI

from app.database import Database, open_database
from app.engine.hyperparameters import Hyperparameters
from app.main import create_app
from app.settings import Settings
from app.training.foreground import train_now
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


def test_who_has_to_wait_for_a_connection_too_long_is_told_to_try_again(
    app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.database.engine.pool, "_timeout", 0.1)
    with every_connection_taken(app.state.database):
        answer = client.get("/v1/status")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/v1/status").status_code == 200
