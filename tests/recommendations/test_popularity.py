"""Popular items, of all time and of the last days."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.recommendations.conftest import Planted, all_ids, ids, rate


def test_one_enthusiastic_vote_is_not_popular(planted: Planted) -> None:
    client, train = planted
    for user in range(30):
        rate(client, f"visitor-{user}", "classic", 4.5)
    rate(client, "visitor-0", "fluke", 5)
    train()
    popular = ids(client.get("/v1/items/popular?n=100"))
    assert popular.index("classic") < popular.index("fluke")


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
