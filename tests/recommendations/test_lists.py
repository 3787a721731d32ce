"""Options of lists: filters, order, diversity, explanations, levels, several items, days, batches."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.recommendations.conftest import LOVE, SPACE, Train

Planted = tuple[httpx.Client, Train]
ASTRONAUT = "/v1/users/astronaut-1/recommendations"
NEWCOMER = "/v1/users/newcomer/recommendations"


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def rate(client: httpx.Client, user_id: str, item_id: str, value: float, **more: object) -> None:
    client.post("/v1/ratings", json={"user_id": user_id, "item_id": item_id, "value": value, **more}).raise_for_status()


def describe(client: httpx.Client, item_id: str, *categories: str) -> None:
    client.put(f"/v1/items/{item_id}", json={"title": item_id, "categories": categories}).raise_for_status()


def all_ids(client: httpx.Client, path: str = NEWCOMER, **options: Any) -> list[str]:
    return ids(client.get(path, params={"n": 100, **options}))


def test_categories_can_be_filtered_by_any_all_and_none(planted: Planted) -> None:
    client, train = planted
    train()
    describe(client, "space-0", "space", "classic")
    describe(client, "love-0", "love", "classic")
    describe(client, "love-1", "love")
    assert set(all_ids(client, category=["space", "classic"])) == {*SPACE, "love-0"}
    assert all_ids(client, category_all=["love", "classic"]) == ["love-0"]
    assert set(all_ids(client, category_none=["classic", "space"])) == set(LOVE[1:])
    assert all_ids(client, category=["classic"], category_none=["love"]) == ["space-0"]
    assert all_ids(client, category_all=["love", "unheard of"]) == []
    body = {"n": 100, "categories_all": ["love"], "categories_none": ["classic"]}
    assert set(ids(client.post("/v1/recommendations", json=body))) == set(LOVE[1:])


def test_items_with_fewer_than_min_ratings_are_left_out(planted: Planted) -> None:
    client, train = planted
    for user in range(3):
        rate(client, f"critic-{user}", "rare", 5.0)
    train()
    assert "rare" in all_ids(client)
    assert "rare" in all_ids(client, min_ratings=3)
    assert "rare" not in all_ids(client, min_ratings=4)
    assert all_ids(client, min_ratings=10_000) == []
    assert "rare" not in all_ids(client, "/v1/items/space-0/similar", min_ratings=4)
    assert "rare" not in all_ids(client, "/v1/items/popular", min_ratings=4)


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_a_list_can_be_ordered_by_either_end_of_the_interval(planted: Planted, end: str) -> None:
    client, train = planted
    for user in range(3):
        rate(client, f"critic-{user}", "rare", 5.0)
    train()
    items = client.get(NEWCOMER, params={"n": 100, "rank_by": end}).json()["items"]
    plain = client.get(NEWCOMER, params={"n": 100}).json()["items"]
    assert len(items) == len(plain) == 17
    ends = [item[end] for item in items]
    assert ends == sorted(ends, reverse=True)
    assert {item["item_id"]: item["value"] for item in items} == {item["item_id"]: item["value"] for item in plain}


def test_by_relevance_an_item_with_many_ratings_precedes_one_liked_as_well_by_few(planted: Planted) -> None:
    client, train = planted
    for user in range(3):
        rate(client, f"critic-{user}", "rare", 5.0)
    train()
    by_value, by_relevance = (all_ids(client, rank_by=order) for order in ("value", "relevance"))
    assert set(by_value) == set(by_relevance)
    assert by_relevance.index("rare") > by_value.index("rare")
    assert all_ids(client, ASTRONAUT, rank_by="relevance", include_rated=True)[0].startswith("space")
    assert all_ids(client, rank_by="relevance", category=["love"], exclude=["love-0"]) == [
        item for item in by_relevance if item in LOVE[1:]
    ]


def test_intervals_are_as_wide_as_the_requested_level(planted: Planted) -> None:
    client, train = planted
    train()
    widths = []
    for level in (0.5, 0.8, 0.95):
        answer = client.get(ASTRONAUT, params={"level": level, "n": 1}).json()
        assert answer["level"] == level
        item = answer["items"][0]
        path = f"/v1/users/astronaut-1/predictions/{item['item_id']}"
        single = client.get(path, params={"level": level}).json()
        pairs = [{"user_id": "astronaut-1", "item_id": item["item_id"]}]
        several = client.post("/v1/predictions", json={"pairs": pairs, "level": level}).json()
        assert single["level"] == several["level"] == level
        for answered in (single, several["predictions"][0]):
            assert (answered["lower"], answered["upper"]) == (item["lower"], item["upper"])
        widths.append(item["value"] - item["lower"])
    assert widths == sorted(widths)
    assert widths[0] < widths[2]
    assert client.get(ASTRONAUT, params={"level": 1.0}).status_code == 422


def test_a_diverse_list_mixes_what_a_plain_one_separates(planted: Planted) -> None:
    client, train = planted
    train()
    plain = all_ids(client, ASTRONAUT, include_rated=True)
    assert all_ids(client, ASTRONAUT, include_rated=True, diversity=0) == plain
    diverse = all_ids(client, ASTRONAUT, include_rated=True, diversity=1)
    assert sorted(diverse) == sorted(plain)
    assert diverse[0] == plain[0]
    kinds = [{item.split("-")[0] for item in order[:2]} for order in (plain, diverse)]
    assert kinds == [{"space"}, {"space", "love"}]
    assert ids(client.get(ASTRONAUT, params={"include_rated": True, "diversity": 1, "n": 3})) == diverse[:3]
    later = {"include_rated": True, "diversity": 1, "n": 3, "offset": 3}
    assert ids(client.get(ASTRONAUT, params=later)) == diverse[3:6]


@pytest.mark.parametrize("user", ["astronaut-1", "newcomer"])
def test_an_explanation_adds_up_and_names_what_was_rated(planted: Planted, user: str) -> None:
    client, train = planted
    train()
    if user == "newcomer":
        rate(client, user, "love-0", 5.0)
        rate(client, user, "space-1", 1.0)
    path = f"/v1/users/{user}/recommendations"
    answer = client.get(path, params={"explain": True, "n": 20}).json()
    assert answer["explained"] == "exactly"
    plain = client.get(path, params={"n": 20}).json()
    assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in plain["items"]]
    given = client.get(f"/v1/users/{user}/ratings", params={"limit": 100}).json()["ratings"]
    values = {rating["item_id"]: rating["value"] for rating in given}
    for item in answer["items"]:
        explanation = item["explanation"]
        shares = [reason["share"] for reason in explanation["reasons"]]
        parts = explanation["prior"], *shares, explanation["other_ratings"], explanation["residual"]
        assert sum(parts) == pytest.approx(explanation["score"], abs=2e-3)
        assert min(max(explanation["score"], 0.5), 5.0) == pytest.approx(item["value"], abs=1e-3)
        assert [abs(share) for share in shares] == sorted(map(abs, shares), reverse=True)
        assert len(shares) == min(5, len(values))
        for reason in explanation["reasons"]:
            assert reason["rating"] == values[reason["item_id"]]
            assert reason["title"] == reason["item_id"].upper()
        if user == "newcomer":
            assert explanation["residual"] == pytest.approx(0.0, abs=2e-4)
            assert str(explanation["residual"]) != "-0.0"


def test_a_fan_is_recommended_their_own_kind_because_of_its_rating(planted: Planted) -> None:
    client, train = planted
    train()
    body = {"ratings": [{"item_id": "space-0", "value": 5}, {"item_id": "love-0", "value": 1}], "explain": True, "n": 1}
    [item] = client.post("/v1/recommendations", json={**body, "n_reasons": 1}).json()["items"]
    assert item["item_id"] in SPACE
    assert len(item["explanation"]["reasons"]) == 1
    assert item["explanation"]["reasons"][0]["share"] > 0


def test_lists_without_known_ratings_can_be_explained(planted: Planted, client: httpx.Client) -> None:
    trained_client, train = planted
    train()
    [item] = trained_client.get(NEWCOMER, params={"explain": True, "n": 1}).json()["items"]
    assert item["explanation"]["reasons"] == []
    assert item["explanation"]["prior"] == pytest.approx(item["explanation"]["score"], abs=2e-4)
    rate(trained_client, "newcomer", "unheard-of", 5.0)
    [item] = trained_client.get(NEWCOMER, params={"explain": True, "n": 1}).json()["items"]
    assert item["explanation"]["reasons"] == []
    assert item["explanation"]["other_ratings"] != 0


def test_before_the_first_model_the_users_own_mean_is_the_reason(client: httpx.Client) -> None:
    for user in ("ann", "ben"):
        rate(client, user, "good", 5)
    rate(client, "ben", "bad", 1)
    [item] = client.get("/v1/users/ann/recommendations", params={"explain": True}).json()["items"]
    assert item["item_id"] == "bad"
    assert [reason["item_id"] for reason in item["explanation"]["reasons"]] == ["good"]


def test_items_can_be_similar_to_several(planted: Planted) -> None:
    client, train = planted
    train()
    answer = client.post("/v1/items/similar", json={"item_ids": ["space-0", "space-1"], "n": 6})
    assert set(ids(answer)) == set(SPACE) - {"space-0", "space-1"}
    assert answer.json()["item_ids"] == ["space-0", "space-1"]
    found = {item["item_id"]: item["similarity"] for item in answer.json()["items"]}
    each = [
        {item["item_id"]: item["similarity"] for item in client.get(f"/v1/items/{seed}/similar?n=20").json()["items"]}
        for seed in ("space-0", "space-1")
    ]
    for item_id, similarity in found.items():
        assert similarity == pytest.approx((each[0][item_id] + each[1][item_id]) / 2, abs=1e-5)
    assert client.post("/v1/items/similar", json={"item_ids": ["space-0", "nowhere"]}).status_code == 404
    assert client.post("/v1/items/similar", json={"item_ids": []}).status_code == 422
    only = client.post("/v1/items/similar", json={"item_ids": ["space-0"], "categories_none": ["space"], "n": 20})
    assert set(ids(only)) == set(LOVE)


@pytest.mark.parametrize("is_trained", [False, True])
def test_popular_items_can_be_restricted_to_the_last_days(planted: Planted, is_trained: bool) -> None:
    client, train = planted
    long_ago = (datetime.now(UTC) - timedelta(days=90)).isoformat()
    for user in range(30):
        rate(client, f"critic-{user}", "oldie", 5.0, rated_at=long_ago)
        rate(client, f"critic-{user}", "newcomer", 4.0)
    if is_trained:
        train()
    assert all_ids(client, "/v1/items/popular")[0] == "oldie"
    recent = client.get("/v1/items/popular", params={"days": 30, "n": 100})
    assert ids(recent)[0] == "newcomer"
    assert "oldie" not in ids(recent)
    assert recent.json()["items"][0]["n_ratings"] == 30
    assert recent.json()["shrinkage"] >= 1
    assert ids(client.get("/v1/items/popular", params={"days": 100, "n": 1})) == ["oldie"]
    assert ids(client.get("/v1/items/popular", params={"days": 30, "n": 100, "min_ratings": 25})) == ["newcomer"]


def test_a_batch_streams_the_list_of_every_user_in_order(planted: Planted) -> None:
    client, train = planted
    train()
    users = [f"astronaut-{number}" for number in range(12)] + ["nobody"] + [f"romantic-{n}" for n in range(12)] * 5
    answer = client.post("/v1/recommendations/batch", json={"user_ids": users, "n": 3, "explain": True})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["user_id"] for line in lines] == users
    for line in (lines[1], lines[12], lines[-1]):
        params = {"n": 3, "explain": True}
        alone = client.get(f"/v1/users/{line['user_id']}/recommendations", params=params).json()
        alone.pop("next_cursor")
        assert {**line, "user_id": None} == {**alone, "user_id": None}
    assert client.post("/v1/recommendations/batch", json={"user_ids": []}).text == ""
    assert client.post("/v1/recommendations/batch", json={"user_ids": ["a/b"]}).status_code == 422


def test_a_batch_before_the_first_model_is_popular(client: httpx.Client) -> None:
    rate(client, "ann", "good", 5)
    [line] = client.post("/v1/recommendations/batch", json={"user_ids": ["ben"]}).text.splitlines()
    assert json.loads(line)["source"] == "popular"
