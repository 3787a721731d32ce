"""A user's vector follows the user's ratings at once, whatever the model has learned."""

from tests.recommendations.conftest import LOVE, Planted, ids, predicted, rate


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
