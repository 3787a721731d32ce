"""What answers before the first version: damped means."""

import json

import httpx
import pytest

from tests.recommendations.conftest import ids, predicted, rate


def test_an_empty_database_gives_an_empty_list_and_the_middle_of_the_scale(client: httpx.Client) -> None:
    answer = client.get("/v1/users/ann/recommendations").json()
    assert answer == {
        "model_version": None,
        "trained_through": 0,
        "source": "popular",
        "level": 0.8,
        "next_cursor": None,
        "items": [],
    }
    assert client.get("/v1/items/popular").json()["items"] == []
    prediction = client.get("/v1/users/ann/predictions/dune").json()
    assert prediction["value"] == pytest.approx(2.75)
    assert prediction["source"] == "means"
    assert prediction["model_version"] is None


def test_before_any_model_a_prediction_is_the_damped_item_mean_plus_the_damped_user_mean(client: httpx.Client) -> None:
    rate(client, "ann", "good", 5)
    rate(client, "ben", "good", 5)
    rate(client, "ben", "bad", 2)
    mean = 12 / 3
    good, bad = (10 - 2 * mean) / (2 + 5), (2 - mean) / (1 + 5)
    ann = (5 - mean - good) / (1 + 5)
    assert predicted(client, "ann", "bad") == pytest.approx(mean + bad + ann, abs=1e-3)
    assert predicted(client, "nobody", "good") == pytest.approx(mean + good, abs=1e-3)


def test_before_any_model_recommendations_are_the_popular_items_that_the_user_has_not_rated(
    client: httpx.Client,
) -> None:
    for user, item, value in [
        ("a", "best", 5),
        ("b", "best", 5),
        ("a", "fair", 3),
        ("b", "worst", 1),
        ("c", "fair", 3),
    ]:
        rate(client, user, item, value)
    answer = client.get("/v1/users/a/recommendations")
    assert ids(answer) == ["worst"]
    assert answer.json()["source"] == "popular"
    assert ids(client.get("/v1/users/nobody/recommendations")) == ["best", "fair", "worst"]


def test_before_the_first_model_the_users_own_mean_is_the_reason(client: httpx.Client) -> None:
    for user in ("ann", "ben"):
        rate(client, user, "good", 5)
    rate(client, "ben", "bad", 1)
    [item] = client.get("/v1/users/ann/recommendations", params={"explain": True}).json()["items"]
    assert item["item_id"] == "bad"
    assert [reason["item_id"] for reason in item["explanation"]["reasons"]] == ["good"]


def test_a_batch_before_the_first_model_is_popular(client: httpx.Client) -> None:
    rate(client, "ann", "good", 5)
    [line] = client.post("/v1/recommendations/batch", json={"user_ids": ["ben"]}).text.splitlines()
    assert json.loads(line)["source"] == "popular"
