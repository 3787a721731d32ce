"""Lists: what they hold, filters, order, diversity, explanations, levels, batches."""

import json

import httpx
import pytest

from tests.recommendations.conftest import LOVE, NEWCOMER, SPACE, Planted, all_ids, ids, rate

ASTRONAUT = "/v1/users/astronaut-1/recommendations"


def describe(client: httpx.Client, item_id: str, *categories: str) -> None:
    client.put(f"/v1/items/{item_id}", json={"title": item_id, "categories": categories}).raise_for_status()


def test_a_trained_model_recommends_each_fan_the_own_kind(planted: Planted) -> None:
    client, train = planted
    version = train()
    for user, own in (("astronaut-1", SPACE), ("romantic-3", LOVE)):
        answer = client.get(f"/v1/users/{user}/recommendations")
        is_own = [item in own for item in ids(answer)]
        assert True in is_own
        assert is_own == sorted(is_own, reverse=True)  # every unrated item of the own kind before any other
        assert answer.json()["model_version"] == version
        assert answer.json()["source"] == "trained"
        assert answer.json()["trained_through"] == client.get("/v1/status").json()["revision"]


def test_hidden_excluded_and_rated_items_never_appear(planted: Planted) -> None:
    client, train = planted
    train()
    client.patch("/v1/items/space-0", json={"hidden": True}).raise_for_status()
    rate(client, "newcomer", "space-1", 5)
    found = ids(client.get("/v1/users/newcomer/recommendations?n=100&exclude=space-2&exclude=unheard-of"))
    assert set(found) == set(SPACE + LOVE) - {"space-0", "space-1", "space-2"}
    assert "space-0" not in ids(client.get("/v1/items/popular?n=100"))
    assert "space-0" not in ids(client.get("/v1/items/space-3/similar?n=100"))
    client.patch("/v1/items/space-0", json={"hidden": False}).raise_for_status()
    assert "space-0" in ids(client.get("/v1/users/newcomer/recommendations?n=100"))


def test_a_deleted_item_never_appears_again(planted: Planted) -> None:
    client, train = planted
    train()
    client.delete("/v1/items/space-4").raise_for_status()
    assert "space-4" not in ids(client.get("/v1/users/newcomer/recommendations?n=100"))
    assert client.get("/v1/items/space-4").status_code == 404


def test_rated_items_appear_when_asked_for(planted: Planted) -> None:
    client, train = planted
    train()
    rate(client, "newcomer", "space-1", 5)
    assert "space-1" in ids(client.get("/v1/users/newcomer/recommendations?n=100&include_rated=true"))


def test_a_category_keeps_everything_else_out(planted: Planted) -> None:
    client, train = planted
    train()
    assert set(ids(client.get("/v1/users/astronaut-1/recommendations?n=100&category=love"))) <= set(LOVE)
    assert set(ids(client.get("/v1/items/popular?n=100&category=love"))) == set(LOVE)
    both = ids(client.get("/v1/users/newcomer/recommendations?n=100&category=love&category=space"))
    assert set(both) == set(LOVE + SPACE)
    assert ids(client.get("/v1/users/newcomer/recommendations?category=unheard-of")) == []


def test_pages_continue_each_other(planted: Planted) -> None:
    client, train = planted
    train()
    whole = ids(client.get("/v1/users/newcomer/recommendations?n=100"))
    pages = [ids(client.get(f"/v1/users/newcomer/recommendations?n=5&offset={at}")) for at in (0, 5, 10, 15, 20)]
    assert [item for page in pages for item in page] == whole
    assert pages[-1] == []


def test_ratings_in_the_body_give_the_same_list_as_stored_ones_and_store_nothing(planted: Planted) -> None:
    client, train = planted
    train()
    revision = client.get("/v1/status").json()["revision"]
    given = [{"item_id": "space-0", "value": 5.0}, {"item_id": "love-0", "value": 1.0}]
    by_body = client.post("/v1/recommendations", json={"ratings": given, "n": 5}).json()
    assert client.get("/v1/status").json()["revision"] == revision
    for rating in given:
        rate(client, "newcomer", str(rating["item_id"]), float(str(rating["value"])))
    by_user = client.get("/v1/users/newcomer/recommendations?n=5").json()
    assert by_body.pop("next_cursor")
    assert by_user.pop("next_cursor")
    assert by_user == by_body


def test_candidates_are_the_only_items_that_may_appear(planted: Planted) -> None:
    client, train = planted
    train()
    body = {
        "ratings": [{"item_id": "space-0", "value": 5}],
        "candidates": ["love-1", "space-2", "space-0", "unheard-of"],
    }
    assert ids(client.post("/v1/recommendations", json=body)) == ["space-2", "love-1"]


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
