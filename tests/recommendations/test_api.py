"""The fast path of a list understands queries as FastAPI does."""

import httpx
import pytest
from fastapi import FastAPI

from app.main import create_app
from app.recommendations import api
from app.settings import Settings
from tests.recommendations.conftest import Planted

PATH = "/v1/users/ann/recommendations"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("n=0", "n"),
        ("n=ten", "n"),
        ("n=1001", "n"),
        ("offset=-1", "offset"),
        ("exclude=a%2Fb", "exclude[0]"),
        ("exclude=a&exclude=", "exclude[1]"),
        ("include_rated=perhaps", "include_rated"),
        ("n=5&" + "&".join(["category=x"] * 101), "category"),
    ],
)
def test_an_invalid_query_is_refused_with_the_name_of_the_parameter(
    sqlite_client: httpx.Client, query: str, field: str
) -> None:
    for _ in range(2):
        answer = sqlite_client.get(f"{PATH}?{query}")
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "n=3&n=4&category=b&category=a&include_rated=yes&unknown=parameter",
        "n=3&exclude=a%20%C3%A4&exclude=+b&min_ratings=2",
        "n=&cursor=",
        "cursor=&rank_by=lower&level=0.9&diversity=.5&explain=on&n_reasons=2",
        "n=3;n=4",
        "n=2&candidates=a",
    ],
)
def test_both_paths_understand_a_query_alike(sqlite_client: httpx.Client, query: str) -> None:
    too_long_for_the_fast_path = f"{query}&unknown={'x' * api.MAX_CACHED_QUERY_BYTES}"
    fast, by_fastapi = (sqlite_client.get(f"{PATH}?{each}") for each in (query, too_long_for_the_fast_path))
    assert (fast.status_code, fast.content) == (by_fastapi.status_code, by_fastapi.content)


def test_of_a_repeated_parameter_the_last_counts_and_lists_are_complete() -> None:
    parsed = api._parse_query(b"n=3&n=4&category=b&category=a&include_rated=yes&unknown=parameter")
    assert parsed is not None
    assert (parsed.n, parsed.filter.any_of, parsed.include_rated) == (4, ("b", "a"), True)


def test_a_valid_query_takes_the_fast_path(sqlite_client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing.solve_dependencies", None)
    assert sqlite_client.get(f"{PATH}?n=3&include_rated=true").status_code == 200


def test_a_cached_query_is_answered_as_the_first_time(sqlite_client: httpx.Client) -> None:
    for path in (PATH, "/v1/users/%20a%C3%A4+b/recommendations"):
        first, again = (sqlite_client.get(f"{path}?n=3&include_rated=true") for _ in range(2))
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert first.headers["etag"] == again.headers["etag"]


@pytest.mark.parametrize("user_id", ["x" * 129, "a%0Ab", "%00", "%2E%2E"])
def test_an_invalid_user_id_is_refused_with_a_cached_query_too(sqlite_client: httpx.Client, user_id: str) -> None:
    sqlite_client.get(f"{PATH}?n=3").raise_for_status()
    answer = sqlite_client.get(f"/v1/users/{user_id}/recommendations?n=3")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["user_id"]


def test_other_methods_are_refused_with_a_cached_query_too(sqlite_client: httpx.Client) -> None:
    sqlite_client.get(f"{PATH}?n=3").raise_for_status()
    answer = sqlite_client.post(f"{PATH}?n=3")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_cache_of_queries_is_bounded(sqlite_client: httpx.Client) -> None:
    before = api._parse_query.cache_info().currsize
    sqlite_client.get(f"{PATH}?exclude={'x' * 100}{'&exclude=y' * 200}").raise_for_status()
    info = api._parse_query.cache_info()
    assert (info.currsize, info.maxsize) == (before, api.MAX_CACHED_QUERIES)


def test_every_parameter_is_declared_with_its_limits() -> None:
    app: FastAPI = create_app(Settings(trainer="external"))
    declared = app.openapi()["paths"]["/v1/users/{user_id}/recommendations"]["get"]["parameters"]
    by_name = {each["name"]: each for each in declared}
    assert {each["in"] for each in declared} == {"path", "query", "header"}
    limits = {"default": 10, "maximum": 1000, "minimum": 1, "type": "integer"}
    assert by_name["n"]["schema"].items() >= limits.items()
    assert by_name["exclude"]["schema"]["items"]["maxLength"] == 128
    assert all(each["description"] for each in declared)


def test_no_source_is_declared_that_no_answer_has(sqlite_client: httpx.Client) -> None:
    schemas = sqlite_client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["RecommendationsOut"]["properties"]["source"]["enum"] == [
        *("trained", "folded_in", "prior", "means", "popular")
    ]
    assert schemas["SimilarItemsOut"]["properties"]["source"]["enum"] == ["item_vectors", "means"]


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


def test_an_answer_that_the_client_already_has_is_not_sent_again(planted: Planted) -> None:
    client, train = planted
    train()
    for path in ("/v1/users/ann/recommendations", "/v1/items/popular", "/v1/items/space-1/similar"):
        first = client.get(path)
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"else", {etag}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get(path, headers={"If-None-Match": '"else"'}).content == first.content
    path, etag = "/v1/users/ann/recommendations", client.get("/v1/users/ann/recommendations").headers["etag"]
    client.post("/v1/ratings", json={"user_id": "ann", "item_id": "love-1", "value": 3}).raise_for_status()
    changed = client.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
