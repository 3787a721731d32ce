"""The query of a list is read as FastAPI would read it, and declared as what is read."""

import httpx
import pytest
from fastapi import FastAPI, Request

from app.main import create_app
from app.recommendations import query
from app.settings import Settings

PATH = "/v1/users/ann/recommendations"


@pytest.mark.parametrize(
    ("asked", "field"),
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
def test_a_bad_query_is_refused_with_the_name_of_the_parameter(
    sqlite_client: httpx.Client, asked: str, field: str
) -> None:
    for _ in range(2):
        answer = sqlite_client.get(f"{PATH}?{asked}")
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_of_a_parameter_given_twice_the_last_counts_and_lists_are_taken_whole() -> None:
    asked = b"n=3&n=4&category=b&category=a&include_rated=yes&unheard=of"
    read = query._read(Request({"type": "http", "query_string": asked, "headers": []}))
    assert (read.n, read.category, read.include_rated) == (4, ["b", "a"], True)


def test_a_query_read_before_is_answered_as_it_was_the_first_time(sqlite_client: httpx.Client) -> None:
    for path in (PATH, "/v1/users/%20a%C3%A4+b/recommendations"):
        first, again = (sqlite_client.get(f"{path}?n=3&include_rated=true") for _ in range(2))
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert first.headers["etag"] == again.headers["etag"]


@pytest.mark.parametrize("user_id", ["x" * 129, "a%0Ab", "%00", "%2E%2E"])
def test_a_bad_user_id_is_refused_with_a_query_read_before_too(sqlite_client: httpx.Client, user_id: str) -> None:
    sqlite_client.get(f"{PATH}?n=3").raise_for_status()
    answer = sqlite_client.get(f"/v1/users/{user_id}/recommendations?n=3")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["user_id"]


def test_other_methods_are_refused_with_a_query_read_before_too(sqlite_client: httpx.Client) -> None:
    sqlite_client.get(f"{PATH}?n=3").raise_for_status()
    answer = sqlite_client.post(f"{PATH}?n=3")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_remembered_of_queries_is_bounded(sqlite_client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_KNOWN", 5)
    monkeypatch.setattr(query, "_known", {})
    for n in range(1, 20):
        sqlite_client.get(f"{PATH}?n={n}").raise_for_status()
    sqlite_client.get(f"{PATH}?exclude={'x' * 100}{'&exclude=y' * 200}").raise_for_status()
    assert 0 < len(query._known) <= 5


def test_every_parameter_is_declared_with_its_limits() -> None:
    app: FastAPI = create_app(Settings(trainer="external"))
    declared = app.openapi()["paths"]["/v1/users/{user_id}/recommendations"]["get"]["parameters"]
    by_name = {each["name"]: each for each in declared}
    assert {each["in"] for each in declared} == {"path", "query", "header"}
    assert by_name["n"]["schema"] == {"default": 10, "maximum": 1000, "minimum": 1, "title": "N", "type": "integer"}
    assert by_name["exclude"]["schema"]["items"]["maxLength"] == 128
    assert all(each["description"] for each in declared)
