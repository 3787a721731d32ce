"""A service in this process with a small world of planted tastes, and a way to train it at once."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import httpx
import pytest

from app.db.engine import open_database
from app.engine.hyperparameters import Hyperparameters
from app.main import create_app
from app.settings import Settings
from app.training.wait_for_run import train_now
from tests.asgi import serving

SPACE = [f"space-{n}" for n in range(8)]
LOVE = [f"love-{n}" for n in range(8)]
FANS_OF_SPACE = [f"astronaut-{n}" for n in range(12)]
FANS_OF_LOVE = [f"romantic-{n}" for n in range(12)]

Train = Callable[[], int]


def planted_ratings() -> list[dict[str, object]]:
    """Fans give their own kind 5 and the other 1; one pair in five is left unrated."""
    ratings = []
    for u, (user, item) in enumerate(product(FANS_OF_SPACE + FANS_OF_LOVE, SPACE + LOVE)):
        is_fan = (user in FANS_OF_SPACE) == (item in SPACE)
        if u % 5:
            ratings.append({"user_id": user, "item_id": item, "value": 5.0 if is_fan else 1.0})
    return ratings


@pytest.fixture
def planted(settings: Settings) -> Iterator[tuple[httpx.Client, Train]]:
    """The service with the planted ratings, not trained yet, and a function that trains and returns the version."""
    app = create_app(settings)
    with serving(app) as client:
        client.post("/v1/ratings/batch", json={"ratings": planted_ratings()}).raise_for_status()
        items = [{"item_id": item, "title": item.upper(), "categories": [item.split("-")[0]]} for item in SPACE + LOVE]
        client.post("/v1/items/batch", json={"items": items}).raise_for_status()

        def train() -> int:
            database = open_database(settings)
            run = train_now(database, settings, Hyperparameters(n_factors=4, n_epochs=40, learning_rate=0.1))
            database.dispose()
            assert run.status == "succeeded", run.error
            app.state.live.refresh()
            assert run.version is not None
            return run.version

        yield client, train


Planted = tuple[httpx.Client, Train]
NEWCOMER = "/v1/users/newcomer/recommendations"


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def all_ids(client: httpx.Client, path: str = NEWCOMER, **options: Any) -> list[str]:
    return ids(client.get(path, params={"n": 100, **options}))


def rate(client: httpx.Client, user_id: str, item_id: str, value: float, **more: object) -> None:
    client.post("/v1/ratings", json={"user_id": user_id, "item_id": item_id, "value": value, **more}).raise_for_status()


def predicted(client: httpx.Client, user_id: str, item_id: str) -> float:
    return client.get(f"/v1/users/{user_id}/predictions/{item_id}").raise_for_status().json()["value"]
