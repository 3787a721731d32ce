import httpx
import pytest

from tests.recommendations.conftest import LOVE, SPACE, Train

Planted = tuple[httpx.Client, Train]


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def rate(client: httpx.Client, user_id: str, item_id: str, value: float) -> None:
    client.post("/v1/ratings", json={"user_id": user_id, "item_id": item_id, "value": value}).raise_for_status()


def predicted(client: httpx.Client, user_id: str, item_id: str) -> float:
    return client.get(f"/v1/users/{user_id}/predictions/{item_id}").raise_for_status().json()["value"]


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


def test_a_user_is_folded_in_as_soon_as_a_rating_is_new_or_gone_and_trained_again_by_the_next_run(
    planted: Planted,
) -> None:
    client, train = planted
    train()

    def source() -> str:
        answer: str = client.get("/v1/users/astronaut-1/recommendations").json()["source"]
        return answer

    assert source() == "trained"
    rated = client.get("/v1/users/astronaut-1/ratings").json()["ratings"][0]
    client.delete(f"/v1/users/astronaut-1/ratings/{rated['item_id']}").raise_for_status()
    assert source() == "folded_in"
    client.post("/v1/ratings", json={"user_id": "astronaut-1", "item_id": rated["item_id"], "value": rated["value"]})
    assert source() == "folded_in"
    train()
    assert source() == "trained"


def test_a_rating_posted_now_changes_the_next_answer_of_a_user_unknown_to_the_model(planted: Planted) -> None:
    client, train = planted
    train()
    before = client.get("/v1/users/newcomer/recommendations").json()
    assert before["source"] == "prior"
    rate(client, "newcomer", "love-0", 5)
    after = client.get("/v1/users/newcomer/recommendations?n=7")
    assert after.json()["source"] == "folded_in"
    assert set(ids(after)) == set(LOVE) - {"love-0"}


def test_a_rating_posted_now_changes_the_next_answer_of_a_trained_user(planted: Planted) -> None:
    client, train = planted
    train()
    before = predicted(client, "astronaut-0", "love-0")
    for item in LOVE[1:]:
        rate(client, "astronaut-0", item, 5)
    assert predicted(client, "astronaut-0", "love-0") > before + 0.3


def test_an_erased_user_is_unknown_at_once(planted: Planted) -> None:
    client, train = planted
    train()
    stranger = client.get("/v1/users/stranger/recommendations").json()
    client.delete("/v1/users/astronaut-2").raise_for_status()
    assert client.get("/v1/users/astronaut-2/recommendations").json() == stranger


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


def test_similar_items_are_of_the_same_kind_and_unknown_items_are_404(planted: Planted) -> None:
    client, train = planted
    train()
    assert set(ids(client.get("/v1/items/space-0/similar?n=7"))) == set(SPACE) - {"space-0"}
    assert client.get("/v1/items/unheard-of/similar").status_code == 404
    client.put("/v1/items/brand-new", json={"title": "Brand new"}).raise_for_status()
    assert ids(client.get("/v1/items/brand-new/similar")) == []


def test_similar_items_say_whether_they_come_from_vectors(planted: Planted) -> None:
    client, train = planted
    before = client.get("/v1/items/space-0/similar").json()
    assert (before["source"], before["items"]) == ("means", [])
    train()
    assert client.get("/v1/items/space-0/similar").json()["source"] == "item_vectors"


def test_no_source_is_declared_that_no_answer_has(sqlite_client: httpx.Client) -> None:
    schemas = sqlite_client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["RecommendationsOut"]["properties"]["source"]["enum"] == [
        *("trained", "folded_in", "prior", "means", "popular")
    ]
    assert schemas["SimilarItemsOut"]["properties"]["source"]["enum"] == ["item_vectors", "means"]


def test_a_batch_answers_in_the_order_of_its_pairs_like_single_questions(planted: Planted) -> None:
    client, train = planted
    train()
    pairs = [("romantic-1", "space-1"), ("astronaut-1", "love-2"), ("nobody", "space-1"), ("romantic-1", "nothing")]
    body = {"pairs": [{"user_id": user, "item_id": item} for user, item in pairs]}
    predictions = client.post("/v1/predictions", json=body).raise_for_status().json()["predictions"]
    assert [(each["user_id"], each["item_id"]) for each in predictions] == pairs
    assert [each["value"] for each in predictions] == [predicted(client, user, item) for user, item in pairs]
    assert [each["source"] for each in predictions] == ["trained", "trained", "prior", "trained"]
    for each in predictions:
        assert 0.5 <= each["lower"] <= each["value"] <= each["upper"] <= 5


def test_one_enthusiastic_vote_is_not_popular(planted: Planted) -> None:
    client, train = planted
    for user in range(30):
        rate(client, f"visitor-{user}", "classic", 4.5)
    rate(client, "visitor-0", "fluke", 5)
    train()
    popular = ids(client.get("/v1/items/popular?n=100"))
    assert popular.index("classic") < popular.index("fluke")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ratings": [{"item_id": "a", "value": 4}, {"item_id": "b", "value": 7}]}, "ratings[1].value"),
        ({"ratings": [{"item_id": "a/b", "value": 4}]}, "ratings[0].item_id"),
        ({"n": 0}, "n"),
        ({"number": 3}, "number"),
    ],
)
def test_bad_bodies_are_refused_with_the_field_and_its_position(
    sqlite_client: httpx.Client, body: dict[str, object], field: str
) -> None:
    answer = sqlite_client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
