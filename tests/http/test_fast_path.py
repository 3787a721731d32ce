"""The fast path answers as FastAPI does, which handles content types with a parameter."""

import json
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from starlette.types import Message

from app.imports.schemas import BatchCountsOut
from app.main import create_app
from app.ratings.schemas import RatingBatch, RatingIn, SavedRatingOut
from app.settings import Settings

FAST, BY_FASTAPI = "application/json", "application/json; charset=utf-8"
ONE = {"user_id": "ann", "item_id": "dune", "value": 4.5}
ODD_RATINGS: list[str] = [
    json.dumps({**ONE, **odd})
    for odd in (
        {},
        {"value": 4},
        {"value": -0.0},
        {"value": 4.25},
        {"value": 10**400},
        {"value": True},
        {"value": "4"},
        {"value": [4]},
        {"value": None},
        {"user_id": ""},
        {"user_id": "."},
        {"user_id": "ü漢🎬 "},
        {"user_id": "\u2028"},
        {"user_id": "\ud800"},
        {"user_id": "x" * 128},
        {"user_id": "x" * 129},
        {"user_id": 7},
        {"item_id": ".."},
        {"item_id": "a/b"},
        {"item_id": "a\nb"},
        {"item_id": None},
        {"rated_at": "2026-01-31T12:00:00Z"},
        {"rated_at": None},
        {"rated_at": "2999-01-01T00:00:00Z"},
        {"rated_at": 7},
        {"colour": "red"},
    )
] + [
    '{"user_id": "ann", "item_id": "dune"}',
    '{"user_id": "ann", "item_id": "dune", "colour": 3}',
    '{"user_id": "ann", "item_id": "dune", "value": 1, "value": 4.5}',
    '{"user_id": "ann", "item_id": "dune", "value": NaN}',
    '{"user_id": "ann", "item_id": "dune", "value": 1e999}',
    '{"user_id": "ann", "item_id": "dune", "value": 04}',
    '{"user_id": "ann", "item_id": "dune", "value": 4.5,}',
    '["user_id", "item_id", "value"]',
    "{}",
    '"ann"',
    "7",
    "null",
]
ODD_BATCHES = [
    *(f'{{"ratings": [{json.dumps(ONE)}, {odd}]}}' for odd in ODD_RATINGS),
    *(f'{{"ratings": {odd}}}' for odd in (*ODD_RATINGS, "[]", '{"user_id": 1}')),
    f'{{"ratings": [{json.dumps(ONE)}], "colour": 1}}',
    f'{{"ratings": [], "ratings": [{json.dumps(ONE)}]}}',
]
NO_JSON = [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"ratings": [' + b"[" * 5000, json.dumps(ONE).encode("utf-16")]


def answers(client: httpx.Client, path: str, body: bytes) -> list[tuple[int, Any]]:
    """The answers of both paths, after a first request has stored the rating."""
    client.post(path, content=body, headers={"Content-Type": FAST})
    both = [client.post(path, content=body, headers={"Content-Type": kind}) for kind in (FAST, BY_FASTAPI)]
    for answer in both:
        assert answer.headers["content-type"] == (
            "application/json" if answer.is_success else "application/problem+json"
        )
    return [(answer.status_code, answer.json()) for answer in both]


def test_both_paths_answer_every_body_alike(sqlite_client: httpx.Client) -> None:
    bodies = {
        "/v1/ratings": [body.encode() for body in ODD_RATINGS] + NO_JSON,
        "/v1/ratings/batch": [body.encode() for body in ODD_BATCHES] + NO_JSON,
    }
    statuses = set()
    for path, odd in bodies.items():
        for body in odd:
            fast, by_fastapi = answers(sqlite_client, path, body)
            assert fast == by_fastapi, body
            statuses.add(fast[0])
    assert statuses == {200, 422}


def test_the_openapi_document_is_that_of_a_plain_route(sqlite_client: httpx.Client) -> None:
    plain = FastAPI(separate_input_output_schemas=False)

    @plain.post("/v1/ratings")
    async def add_rating(body: RatingIn) -> SavedRatingOut: ...

    @plain.post("/v1/ratings/batch")
    async def add_ratings(body: RatingBatch) -> BatchCountsOut: ...

    expected, ours = plain.openapi(), sqlite_client.get("/openapi.json").json()
    for path, operations in expected["paths"].items():
        operation = ours["paths"][path]["post"]
        assert operation["requestBody"] == operations["post"]["requestBody"]
        assert operation["responses"]["200"] == operations["post"]["responses"]["200"]
    for name in ("RatingIn", "RatingBatch", "SavedRatingOut", "BatchCountsOut"):
        assert ours["components"]["schemas"][name] == expected["components"]["schemas"][name]


def test_valid_bodies_take_the_fast_path(sqlite_client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("FastAPI handles the request")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", fail)
    assert sqlite_client.post("/v1/ratings", json=ONE).status_code == 201


@pytest.mark.parametrize("content_type", [FAST, BY_FASTAPI])
@pytest.mark.parametrize("path", ["/v1/ratings", "/v1/ratings/batch"])
def test_a_client_that_disconnects_within_its_body_is_not_an_error_of_the_service(
    sqlite_settings: Settings, path: str, content_type: str
) -> None:
    app = create_app(sqlite_settings)
    arriving = iter([{"type": "http.request", "body": b'{"user_id"', "more_body": True}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(arriving, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", content_type.encode()), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
    ):
        portal.call(app, scope, receive, send)
    assert sent[0]["status"] == 422
