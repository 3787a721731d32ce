"""The item endpoints, from outside."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.asgi import serving

EMPTY = {"title": None, "categories": [], "attributes": {}, "hidden": False}
DUNE = {"title": "Dune (2021)", "categories": ["Sci-Fi"], "attributes": {"year": 2021}, "hidden": False}


@pytest.fixture(scope="module")
def unmoved_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One empty service for the tests that prove that nothing gets into it."""
    with serving(create_app(Settings(data_dir=tmp_path_factory.mktemp("unmoved"), trainer="external"))) as client:
        yield client
        assert client.get("/v1/items").json()["items"] == []


def fields_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    return [error["field"] for error in answer.json()["errors"]]


def test_putting_makes_and_then_replaces_the_item(client: httpx.Client) -> None:
    first = client.put("/v1/items/dune", json=DUNE)
    assert (first.status_code, first.json()) == (201, {"item_id": "dune", "revision": 1} | DUNE)
    second = client.put("/v1/items/dune", json={"title": "Dune"})
    assert (second.status_code, second.json()) == (200, {"item_id": "dune", "revision": 2} | EMPTY | {"title": "Dune"})
    assert client.put("/v1/items/dune", json={"title": "Dune"}).json()["revision"] == 2
    assert client.get("/v1/items/dune").json() == second.json()


def test_patching_changes_only_what_is_given(client: httpx.Client) -> None:
    client.put("/v1/items/dune", json=DUNE)
    assert client.patch("/v1/items/dune", json={"hidden": True}).json() == (
        {"item_id": "dune", "revision": 2} | DUNE | {"hidden": True}
    )
    assert client.patch("/v1/items/dune", json={"title": None}).json()["title"] is None
    assert client.patch("/v1/items/dune", json={}).json()["revision"] == 3


def test_an_unknown_item_is_not_found(client: httpx.Client) -> None:
    assert client.get("/v1/items/nothing").status_code == 404
    assert client.patch("/v1/items/nothing", json={"title": "x"}).status_code == 404
    assert client.get("/v1/items").json() == {"items": [], "next_cursor": None}


def test_a_rated_item_exists_without_metadata(client: httpx.Client) -> None:
    client.post("/v1/ratings", json={"user_id": "ann", "item_id": "dune", "value": 4})
    assert client.get("/v1/items/dune").json() == {"item_id": "dune", "revision": 1} | EMPTY
    assert client.put("/v1/items/dune", json=DUNE).status_code == 200


def test_a_batch_is_put_at_once_and_the_last_of_an_id_wins(client: httpx.Client) -> None:
    items = [{"item_id": "dune", "title": "old"}, {"item_id": "heat"}, {"item_id": "dune"} | DUNE]
    answer = client.post("/v1/items/batch", json={"items": items})
    assert answer.json() == {"created": 2, "updated": 0, "unchanged": 0, "revision": 2}
    assert client.get("/v1/items/dune").json()["title"] == "Dune (2021)"


def test_items_are_listed_page_by_page_and_searched(client: httpx.Client) -> None:
    items = [{"item_id": f"i{n}", "title": f"Part {n}", "categories": ["odd"] if n % 2 else []} for n in range(25)]
    client.post("/v1/items/batch", json={"items": items})
    found: list[str] = []
    query: dict[str, Any] = {"limit": 5, "category": "odd", "title": "PART"}
    while True:
        page = client.get("/v1/items", params=query).json()
        found += [item["item_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == [f"i{n}" for n in range(1, 25, 2)]


def nested(depth: int) -> dict[str, Any]:
    """An object of this many levels, itself the first of them."""
    inner: list[Any] = []
    for _ in range(depth - 2):
        inner = [inner]
    return {"a": inner}


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"title": 7}, "title"),
    ({"title": "x" * 1001}, "title"),
    ({"title": "a\x00b"}, "title"),
    ({"title": "\ud800"}, "title"),
    ({"categories": "Drama"}, "categories"),
    ({"categories": None}, "categories"),
    ({"categories": ["Drama", ""]}, "categories[1]"),
    ({"categories": ["a\x00b"]}, "categories[0]"),
    ({"categories": ["\ud800"]}, "categories[0]"),
    ({"categories": ["x"] * 101}, "categories"),
    ({"attributes": []}, "attributes"),
    ({"attributes": {"a": float("nan")}}, "attributes"),
    ({"attributes": {"a": ["\ud800"]}}, "attributes"),
    ({"attributes": {"a": "x" * 70_000}}, "attributes"),
    ({"attributes": nested(33)}, "attributes"),
    ({"attributes": nested(400)}, "attributes"),
    ({"hidden": "yes"}, "hidden"),
    ({"hidden": 1}, "hidden"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_metadata_is_refused_by_name_and_position(
    unmoved_client: httpx.Client, fields: dict[str, Any], field: str
) -> None:
    headers = {"Content-Type": "application/json"}
    put = unmoved_client.put("/v1/items/dune", content=json.dumps(fields), headers=headers)
    assert fields_of(put) == [field]
    body = json.dumps({"items": [{"item_id": "heat"}, {"item_id": "dune"} | fields]})
    assert fields_of(unmoved_client.post("/v1/items/batch", content=body, headers=headers)) == [f"items[1].{field}"]
    patch = unmoved_client.patch("/v1/items/dune", content=json.dumps(fields), headers=headers)
    assert fields_of(patch) == [field]


@pytest.mark.parametrize("item_id", ["x" * 129, "a%00b", "a%0Ab", "%C2%AD"])
def test_a_bad_id_in_the_path_is_refused(unmoved_client: httpx.Client, item_id: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = {} if method in {"PUT", "PATCH"} else None
        answer = unmoved_client.request(method, f"/v1/items/{item_id}", json=body)
        assert fields_of(answer) == ["item_id"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x"])
def test_a_bad_page_is_refused(unmoved_client: httpx.Client, query: str) -> None:
    assert fields_of(unmoved_client.get(f"/v1/items?{query}")) == [query.split("=")[0]]


def test_a_search_for_what_no_database_can_hold_finds_nothing_and_fails_nowhere(client: httpx.Client) -> None:
    client.put("/v1/items/dune", json=DUNE)
    for query in ("title=%00", "category=%00", "title=%ED%A0%80"):
        answer = client.get(f"/v1/items?{query}")
        assert answer.status_code in {200, 422}
        assert answer.json().get("items", []) == []


def test_attributes_come_back_as_they_were_given(client: httpx.Client) -> None:
    attributes = {"null": None, "text": "ünï \u0000 🎬", "number": 12345678901234567890, "deep": [[{"a": [1.5, True]}]]}
    client.put("/v1/items/dune", json={"attributes": attributes})
    assert client.get("/v1/items/dune").json()["attributes"] == attributes


def test_attributes_as_deep_as_may_be_can_be_put_and_listed(client: httpx.Client) -> None:
    assert client.put("/v1/items/dune", json={"attributes": nested(32)}).status_code == 201
    assert client.get("/v1/items").json()["items"][0]["attributes"] == nested(32)
