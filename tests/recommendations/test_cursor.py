"""Pages neither overlap nor shift, whatever changes between them."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.recommendations.conftest import SPACE, Planted

PATH = "/v1/users/astronaut-1/recommendations"


def pages(client: httpx.Client, path: str = PATH, **params: Any) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        given = params if cursor is None else {**params, "cursor": cursor}
        page: dict[str, Any] = client.get(path, params=given).raise_for_status().json()
        yield page
        cursor = page["next_cursor"]
        if cursor is None:
            return


def ids(page: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in page["items"]]


def whole(client: httpx.Client, **params: Any) -> list[str]:
    return ids(client.get(PATH, params={"n": 1000, **params}).json())


@pytest.mark.parametrize("n", [1, 3, 16, 20])
def test_all_pages_together_are_the_whole_list(planted: Planted, n: int) -> None:
    client, train = planted
    train()
    found = list(pages(client, n=n, include_rated=True))
    assert [item for page in found for item in ids(page)] == whole(client, include_rated=True)
    assert all(len(page["items"]) == n for page in found[:-1])
    assert {page["source"] for page in found} == {"trained"}


def test_a_rating_between_two_pages_removes_its_item_and_moves_no_other(planted: Planted) -> None:
    client, train = planted
    train()
    before = whole(client, include_rated=False)
    found = pages(client, n=1)
    first = ids(next(found))
    for item in before[2:3]:
        client.put(f"/v1/users/astronaut-1/ratings/{item}", json={"value": 1}).raise_for_status()
    assert first + [item for page in found for item in ids(page)] == [item for item in before if item != before[2]]


def test_deleting_a_rating_between_two_pages_repeats_and_skips_nothing(planted: Planted) -> None:
    client, train = planted
    train()
    before = whole(client)
    found = pages(client, n=2)
    shown = ids(next(found))
    for item in SPACE:
        client.delete(f"/v1/users/astronaut-1/ratings/{item}")
    rest = [item for page in found for item in ids(page)]
    assert len(set(shown + rest)) == len(shown + rest)
    assert [item for item in shown + rest if item in before] == before


def test_a_page_goes_on_with_the_version_of_the_first_one(planted: Planted) -> None:
    client, train = planted
    old = train()
    before = whole(client)
    found = pages(client, n=1)
    shown = ids(next(found))
    for user in range(12):
        client.put(f"/v1/users/romantic-{user}/ratings/{before[1]}", json={"value": 4}).raise_for_status()
    new = train()
    assert client.get(PATH).json()["model_version"] == new
    rest = list(found)
    assert {page["model_version"] for page in rest} == {old}
    assert shown + [item for page in rest for item in ids(page)] == before


def test_pages_of_a_deleted_version_are_refused(planted: Planted) -> None:
    client, train = planted
    old = train()
    cursor = client.get(PATH, params={"n": 1}).json()["next_cursor"]
    train()
    train()
    client.delete(f"/v1/models/{old}").raise_for_status()
    answer = client.get(PATH, params={"n": 1, "cursor": cursor})
    assert answer.status_code == 409
    detail = f"this list was made by model version {old}, which no longer exists; omit the cursor"
    assert answer.json()["detail"] == detail


def test_ratings_in_the_body_have_pages_too(planted: Planted) -> None:
    client, train = planted
    train()
    body: dict[str, Any] = {"ratings": [{"item_id": "space-0", "value": 5}], "n": 4}
    first = client.post("/v1/recommendations", json=body).json()
    second = client.post("/v1/recommendations", json={**body, "cursor": first["next_cursor"]}).json()
    both = client.post("/v1/recommendations", json={**body, "n": 8}).json()
    assert ids(first) + ids(second) == ids(both)
    assert [item["value"] for item in first["items"] + second["items"]] == [item["value"] for item in both["items"]]


@pytest.mark.parametrize("cursor", ["", "x", "!!", "AAAA", "k" * 7000, "\u00e9", "A" * 48])
def test_an_invalid_cursor_is_refused(planted: Planted, cursor: str) -> None:
    client, train = planted
    train()
    answer = client.get(PATH, params={"cursor": cursor})
    assert answer.status_code == (200 if cursor == "" else 422)
    if cursor:
        assert answer.json()["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize(
    "changed", [{"category": "love"}, {"include_rated": True}, {"offset": 1}, {"diversity": 0.5}, {"rank_by": "lower"}]
)
def test_a_cursor_belongs_to_the_options_of_its_list(planted: Planted, changed: dict[str, Any]) -> None:
    client, train = planted
    train()
    cursor = client.get(PATH, params={"n": 1}).json()["next_cursor"]
    assert client.get(PATH, params={"n": 2, "level": 0.9, "explain": True, "cursor": cursor}).status_code == 200
    answer = client.get(PATH, params={"n": 1, "cursor": cursor, **changed})
    assert answer.status_code == 422
    assert "other options" in answer.json()["detail"]


@pytest.mark.parametrize("options", [{"diversity": 0.5}, {"rank_by": "upper"}])
def test_lists_whose_order_is_not_that_of_a_vector_have_no_cursor(planted: Planted, options: dict[str, Any]) -> None:
    client, train = planted
    train()
    assert client.get(PATH, params={"n": 1, **options}).json()["next_cursor"] is None


def test_before_the_first_model_there_is_no_cursor(client: httpx.Client) -> None:
    for item in ("a", "b", "c"):
        client.post("/v1/ratings", json={"user_id": "ann", "item_id": item, "value": 3}).raise_for_status()
    page = client.get("/v1/users/ben/recommendations", params={"n": 1}).json()
    assert len(page["items"]) == 1
    assert page["next_cursor"] is None
