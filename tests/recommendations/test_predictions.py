"""Predictions of many pairs."""

from tests.recommendations.conftest import Planted, predicted


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
