"""The HTTP calls of the demo: only the public API, as any application would use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

import httpx

Json = dict[str, Any]

_ITEMS_PER_BATCH = 10_000  # what POST /v1/items/batch takes
_TIMEOUT = 60.0  # seconds without a byte


class ServiceRefused(Exception):
    """The service answered with an error; the message is its detail."""

    def __init__(self, method: str, url: str, status: int, detail: str) -> None:
        super().__init__(f"{method} {url} was answered with {status}: {detail}")
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: Json


class ServiceClient:
    """A running Palate; use it in a `with` block. Raises ServiceRefused and httpx.TransportError."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=_TIMEOUT)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Json:
        return self._json("GET", "/v1/status")

    def put_items(self, items: Sequence[Json]) -> None:
        for start in range(0, len(items), _ITEMS_PER_BATCH):
            self._json("POST", "/v1/items/batch", json={"items": items[start : start + _ITEMS_PER_BATCH]})

    def import_ratings(self, content: Iterable[bytes]) -> Json:
        """Stream a file of any size; returns the report."""
        headers = {"content-type": "text/csv"}
        return self._json("POST", "/v1/ratings/import", content=content, headers=headers, timeout=None)

    def some_ratings(self, n: int) -> list[Json]:
        """The first `n` ratings of the export, which is grouped by user."""
        with self._http.stream("GET", "/v1/ratings/export", params={"format": "ndjson"}) as response:
            _check(response)
            return [json.loads(line) for line in islice(response.iter_lines(), n)]

    def all_items(self) -> dict[str, Json]:
        """Every item by its id."""
        return {item["item_id"]: item for item in self._pages("/v1/items", "items")}

    def popular_items(self, n: int) -> list[Json]:
        items: list[Json] = self._json("GET", "/v1/items/popular", params={"n": n})["items"]
        return items

    def ratings_of(self, user_id: str) -> list[Json]:
        return list(self._pages(f"{_user(user_id)}/ratings", "ratings"))

    def rate(self, user_id: str, item_id: str, value: float) -> Json:
        return self._json("POST", "/v1/ratings", json={"user_id": user_id, "item_id": item_id, "value": value})

    def recommend(self, user_id: str, n: int) -> Json:
        return self._json("GET", f"{_user(user_id)}/recommendations", params={"n": n})

    def recommend_for(self, ratings: Sequence[Json], n: int) -> list[Json]:
        """Recommendations for a user with these ratings; nothing is stored."""
        items: list[Json] = self._json("POST", "/v1/recommendations", json={"ratings": ratings, "n": n})["items"]
        return items

    def start_training(self) -> Json:
        return self._json("POST", "/v1/training-runs", json={})

    def training_run(self, run_id: int) -> Json:
        return self._json("GET", f"/v1/training-runs/{run_id}")

    def training_events(self, run_id: int) -> Iterator[Event]:
        """The events of a run until it ends."""
        with self._http.stream("GET", f"/v1/training-runs/{run_id}/events", timeout=_TIMEOUT) as response:
            _check(response)
            yield from parse_events(response.iter_lines())

    def _pages(self, path: str, name: str) -> Iterator[Json]:
        cursor: str | None = None
        while True:
            page = self._json("GET", path, params={"limit": 1000} | ({"cursor": cursor} if cursor else {}))
            yield from page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _json(self, method: str, path: str, **request: Any) -> Json:
        response = self._http.request(method, path, **request)
        _check(response)
        answer: Json = response.json()
        return answer


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Events of a text/event-stream; comments and empty events are skipped."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data += value
        elif not line:
            if data:
                yield Event(name, json.loads(data))
            name, data = "message", ""


def _user(user_id: str) -> str:
    return f"/v1/users/{quote(user_id, safe='')}"


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    is_problem = "json" in response.headers.get("content-type", "")
    detail = response.json().get("detail", "") if is_problem else response.text[:200]
    raise ServiceRefused(response.request.method, str(response.request.url), response.status_code, detail)
