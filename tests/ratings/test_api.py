"""The rating endpoints, from outside."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.asgi import serving

Json = dict[str, Any]


@pytest.fixture(scope="module")
def unmoved_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One empty service for the tests that prove that nothing gets into it."""
    with serving(create_app(Settings(data_dir=tmp_path_factory.mktemp("unmoved"), trainer="external"))) as client:
        yield client
        assert revision_of(client) == 0


def rating(user_id: Any = "ann", item_id: Any = "dune", value: Any = 4.5, **more: Any) -> Json:
    return {"user_id": user_id, "item_id": item_id, "value": value, **more}


def post(client: httpx.Client, **fields: Any) -> httpx.Response:
    return post_text(client, "/v1/ratings", json.dumps(rating(**fields)))


def post_batch(client: httpx.Client, *ratings: Json) -> httpx.Response:
    return post_text(client, "/v1/ratings/batch", json.dumps({"ratings": ratings}))


def post_text(client: httpx.Client, path: str, text: str) -> httpx.Response:
    return client.post(path, content=text, headers={"Content-Type": "application/json"})


def fields_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [error["field"] for error in answer.json()["errors"]]


def revision_of(client: httpx.Client) -> int:
    return client.get("/v1/ratings/digest").json()["revision"]


def test_posting_again_replaces_the_rating(client: httpx.Client) -> None:
    first, second, third = (post(client, value=value) for value in (3, 5, 5))
    assert [answer.status_code for answer in (first, second, third)] == [201, 200, 200]
    assert [answer.json()["outcome"] for answer in (first, second, third)] == ["created", "updated", "unchanged"]
    assert [answer.json()["revision"] for answer in (first, second, third)] == [1, 2, 2]
    stored = client.get("/v1/users/ann/ratings/dune").json()
    assert (stored["value"], stored["revision"]) == (5.0, 2)


def test_an_answer_repeats_the_rating_with_its_time_in_utc(client: httpx.Client) -> None:
    answer = post(client, rated_at="2026-01-31T12:00:00+02:00").json()
    assert answer == {
        "user_id": "ann",
        "item_id": "dune",
        "value": 4.5,
        "rated_at": "2026-01-31T10:00:00Z",
        "revision": 1,
        "outcome": "created",
    }
    assert client.get("/v1/users/ann/ratings/dune").json()["rated_at"] == "2026-01-31T10:00:00Z"


FUTURE = "2999-01-01T00:00:00Z"  # the same text in every process that collects the tests
BAD_FIELDS: list[tuple[Json, str]] = [
    ({"value": 5.5}, "value"),
    ({"value": 0}, "value"),
    ({"value": "5"}, "value"),
    ({"value": True}, "value"),
    ({"value": None}, "value"),
    ({"value": 10**400}, "value"),
    ({"user_id": ""}, "user_id"),
    ({"user_id": "x" * 129}, "user_id"),
    ({"user_id": 7}, "user_id"),
    ({"user_id": "a/b"}, "user_id"),
    ({"user_id": "a\nb"}, "user_id"),
    ({"user_id": "\ud800"}, "user_id"),
    ({"item_id": "a\x00b"}, "item_id"),
    ({"item_id": None}, "item_id"),
    ({"rated_at": FUTURE}, "rated_at"),
    ({"rated_at": "9999-12-31T23:59:59-12:00"}, "rated_at"),
    ({"rated_at": "0001-01-01T00:00:00+12:00"}, "rated_at"),
    ({"rated_at": "2026-01-31T12:00:00"}, "rated_at"),
    ({"rated_at": "1769860800"}, "rated_at"),
    ({"rated_at": 1769860800}, "rated_at"),
    ({"rated_at": "yesterday"}, "rated_at"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_by_name_and_position_and_nothing_is_stored(
    unmoved_client: httpx.Client, fields: Json, field: str
) -> None:
    assert fields_of(post(unmoved_client, **fields)) == [field]
    good = [rating(item_id=f"i{place}") for place in range(17)]
    assert fields_of(post_batch(unmoved_client, *good, rating(**fields))) == [f"ratings[17].{field}"]
    if "user_id" not in fields and "item_id" not in fields:
        body = {name: value for name, value in rating(**fields).items() if name not in {"user_id", "item_id"}}
        assert fields_of(unmoved_client.put("/v1/users/ann/ratings/dune", json=body)) == [field]
    assert revision_of(unmoved_client) == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_by_name(unmoved_client: httpx.Client, number: str) -> None:
    one = f'{{"user_id": "ann", "item_id": "dune", "value": {number}}}'
    assert fields_of(post_text(unmoved_client, "/v1/ratings", one)) == ["value"]
    batch = f'{{"ratings": [{one}]}}'
    assert fields_of(post_text(unmoved_client, "/v1/ratings/batch", batch)) == ["ratings[0].value"]
    assert revision_of(unmoved_client) == 0


@pytest.mark.parametrize("body", ["", "{", "[]", '"x"', "null", "[" * 100_000, '{"value": ' + "9" * 5000 + "}"])
def test_a_body_that_is_no_rating_is_refused(unmoved_client: httpx.Client, body: str) -> None:
    assert post_text(unmoved_client, "/v1/ratings", body).status_code in {400, 422}


def test_the_reason_is_given_in_plain_words(unmoved_client: httpx.Client) -> None:
    answer = post_batch(unmoved_client, rating(user_id="a/b"), rating(rated_at="yesterday"), rating(value="5"))
    assert answer.json()["errors"] == [
        {"field": "ratings[0].user_id", "message": "must not contain '/'"},
        {"field": "ratings[1].rated_at", "message": "must be an ISO 8601 time such as 2026-01-31T12:00:00Z"},
        {"field": "ratings[2].value", "message": "Input should be a valid number"},
    ]


def test_a_clock_a_little_ahead_is_forgiven(sqlite_client: httpx.Client) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    assert post(sqlite_client, rated_at=soon).status_code == 201


def test_ids_may_hold_any_printable_character(client: httpx.Client) -> None:
    names = ["ünï 漢字 🎬", "a,b\"c'd", "50%", "a?b#c&d=e", " "]
    assert post_batch(client, *(rating(user_id=name, item_id=name) for name in names)).json()["created"] == 5
    for name in names:
        path = quote(name, safe="")
        assert client.get(f"/v1/users/{path}/ratings/{path}").json()["item_id"] == name


def test_a_batch_counts_and_is_all_or_nothing(client: httpx.Client) -> None:
    assert post_batch(client, rating(), rating(item_id="heat")).json() == {
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "revision": 2,
    }
    mixed = [rating(), rating(item_id="heat", value=1), rating(item_id="alien"), rating(item_id="alien", value=2)]
    assert post_batch(client, *mixed).json() == {"created": 1, "updated": 1, "unchanged": 1, "revision": 4}
    assert fields_of(post_batch(client, rating(item_id="new"), rating(value=9), rating(value=-1))) == [
        "ratings[1].value",
        "ratings[2].value",
    ]
    assert client.get("/v1/users/ann/ratings/new").status_code == 404


def test_a_batch_holds_at_most_ten_thousand(sqlite_client: httpx.Client) -> None:
    ratings = [rating(item_id=f"i{place}") for place in range(10_001)]
    assert fields_of(post_batch(sqlite_client, *ratings)) == ["ratings"]
    assert post_batch(sqlite_client, *ratings[:10_000]).json()["created"] == 10_000
    assert post_batch(sqlite_client).json() == {"created": 0, "updated": 0, "unchanged": 0, "revision": 10_000}


def test_a_rating_can_be_put_read_and_taken_back(client: httpx.Client) -> None:
    path = "/v1/users/ann/ratings/dune"
    assert client.get(path).status_code == 404
    assert client.put(path, json={"value": 3}).status_code == 201
    assert client.put(path, json={"value": 4}).status_code == 200
    assert client.get(path).json()["value"] == 4.0
    assert client.delete(path).json() == {"user_id": "ann", "item_id": "dune", "revision": 3}
    assert client.delete(path).status_code == 404
    assert client.get(path).status_code == 404


def test_a_users_ratings_are_listed_page_by_page_each_once(client: httpx.Client) -> None:
    post_batch(client, *(rating(item_id=f"i{place}") for place in range(25)), rating(user_id="bob"))
    found: list[str] = []
    cursor = None
    for _ in range(3):
        page = client.get("/v1/users/ann/ratings", params={"limit": 10} | ({"cursor": cursor} if cursor else {})).json()
        found += [one["item_id"] for one in page["ratings"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert sorted(found) == sorted(f"i{place}" for place in range(25))


def test_a_user_who_never_rated_has_no_ratings(client: httpx.Client) -> None:
    assert client.get("/v1/users/nobody/ratings").json() == {"user_id": "nobody", "ratings": [], "next_cursor": None}


@pytest.mark.parametrize("cursor", ["x", "a2s", "LTE", "azk5OTk5OTk5OTk5OTk5OTk5", "é", "%00"])
def test_a_made_up_cursor_is_refused(unmoved_client: httpx.Client, cursor: str) -> None:
    assert fields_of(unmoved_client.get("/v1/users/ann/ratings", params={"cursor": cursor})) == ["cursor"]


def test_erasure_says_what_was_erased(client: httpx.Client) -> None:
    post_batch(client, rating(), rating(item_id="heat"), rating(user_id="bob"))
    assert client.delete("/v1/users/ann").json() == {"user_id": "ann", "erased_ratings": 2, "revision": 5}
    assert client.delete("/v1/users/ann").status_code == 404
    assert client.delete("/v1/items/dune").json() == {"item_id": "dune", "erased_ratings": 1, "revision": 6}
    assert client.delete("/v1/items/dune").status_code == 404
    assert client.get("/v1/items/dune").status_code == 404


FILE = "userId,movieId,rating,timestamp\nann,dune,4.5,1260759144\nann,heat,9,1\nbob,dune,1,1260759182\n"


def post_file(client: httpx.Client, content: str | bytes, **options: Any) -> httpx.Response:
    return client.post("/v1/ratings/import", content=content, **options)


def test_an_import_reports_counts_and_bad_lines(client: httpx.Client) -> None:
    report = post_file(client, FILE).json()
    assert report == {
        "format": "csv with header",
        "lines": 3,
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "duplicates": 0,
        "bad": 1,
        "bad_lines": [
            {"line": 3, "reason": "value: must be a number from 0.5 to 5", "text": "ann,heat,9,1"},
        ],
        "revision": 2,
        "stopped_because": None,
    }
    assert (
        post_file(client, gzip.compress(FILE.encode()), headers={"Content-Encoding": "gzip"}).json()["unchanged"] == 2
    )


def test_columns_and_format_of_an_import_can_be_given(sqlite_client: httpx.Client) -> None:
    given = {"format": "csv", "user_column": "who", "item_column": "what", "value_column": "liked"}
    report = post_file(sqlite_client, "liked,who,what\n4,ann,dune\n", params=given).json()
    assert report["created"] == 1
    assert sqlite_client.get("/v1/users/ann/ratings/dune").json()["value"] == 4.0


@pytest.mark.parametrize(
    ("content", "options", "field"),
    [
        ("what is this", {}, "line 1"),
        (FILE, {"params": {"format": "excel"}}, "format"),
        (FILE, {"headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "Content-Type"),
        (FILE, {"headers": {"Content-Encoding": "br"}}, "Content-Encoding"),
    ],
)
def test_an_import_that_makes_no_sense_is_refused(
    unmoved_client: httpx.Client, content: str, options: Json, field: str
) -> None:
    assert fields_of(post_file(unmoved_client, content, **options)) == [field]


@pytest.mark.parametrize(("file_format", "media_type"), [("ndjson", "application/x-ndjson"), ("csv", "text/csv")])
def test_an_export_is_importable_as_it_is(client: httpx.Client, file_format: str, media_type: str) -> None:
    names = ["ann", "ünï 漢字 🎬", 'a,"b"', " x ", "a;b", "a::b", "null", "{"]
    times = ["2026-01-31T12:00:00Z", "1999-12-31T23:59:59.000001Z", "0001-01-01T00:00:00Z"]
    ratings = [
        rating(user_id=name, item_id=f"{name}{place}", value=0.5 + place / 3, rated_at=time)
        for name in names
        for place, time in enumerate(times)
    ]
    assert post_batch(client, *ratings).json()["created"] == 24
    before = client.get("/v1/ratings/digest").json()
    exported = client.get("/v1/ratings/export", params={"format": file_format})
    assert exported.headers["content-type"].split(";")[0] == media_type
    assert post_file(client, exported.content).json()["unchanged"] == 24
    for name in names:
        assert client.delete(f"/v1/users/{quote(name, safe='')}").json()["erased_ratings"] == 3
    assert client.get("/v1/ratings/digest").json()["n_ratings"] == 0
    assert post_file(client, exported.content).json()["created"] == 24
    after = client.get("/v1/ratings/digest").json()
    assert (after["digest"], after["n_ratings"]) == (before["digest"], 24)


def test_an_empty_service_exports_nothing_and_has_a_digest(client: httpx.Client) -> None:
    assert client.get("/v1/ratings/export").content == b""
    assert client.get("/v1/ratings/export?format=csv").text == "user_id,item_id,value,rated_at\n"
    assert client.get("/v1/ratings/digest").json()["n_ratings"] == 0
