"""Items similar to others."""

import pytest

from tests.recommendations.conftest import LOVE, SPACE, Planted, ids


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
