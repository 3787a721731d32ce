"""The HTTP calls of the demo: only the public API, as any application would use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

Json = dict[str, Any]

_ITEMS_PER_BATCH = 10_000  # what POST /v1/items/batch takes
_TIMEOUT = 60.0  # seconds without a byte


class ServiceRefused(Exception):
    """The service answered with an error; the message holds its detail."""


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: Json


class ServiceClient(httpx.Client):
    """A running Palate; use it in a `with` block. Raises ServiceRefused and httpx.TransportError."""

    def __init__(self, base_url: str) -> None:
        super().__init__(base_url=base_url, timeout=_TIMEOUT, event_hooks={"response": [_check]})

    def call(self, method: str, path: str, **request: Any) -> Json:
        answer: Json = self.request(method, path, **request).json()
        return answer

    def pages(self, path: str, name: str) -> Iterator[Json]:
        """The entries of a list endpoint, page after page."""
        query: Json = {"limit": 1000}
        while True:
            page = self.call("GET", path, params=query)
            yield from page[name]
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def put_items(self, items: Sequence[Json]) -> int:
        """Store the items; returns their number."""
        for start in range(0, len(items), _ITEMS_PER_BATCH):
            self.call("POST", "/v1/items/batch", json={"items": items[start : start + _ITEMS_PER_BATCH]})
        return len(items)

    def export(self, n: int) -> list[Json]:
        """The first `n` ratings of the export, which is grouped by user."""
        with self.stream("GET", "/v1/ratings/export", params={"format": "ndjson"}) as response:
            return [json.loads(line) for line in islice(response.iter_lines(), n)]

    def ratings_of(self, user_id: str) -> list[Json]:
        return list(self.pages(f"{user_path(user_id)}/ratings", "ratings"))

    def recommend(self, user_id: str, n: int) -> Json:
        return self.call("GET", f"{user_path(user_id)}/recommendations", params={"n": n})

    def events(self, path: str) -> Iterator[Event]:
        """The events of a stream until it ends."""
        with self.stream("GET", path) as response:
            yield from parse_events(response.iter_lines())


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


def user_path(user_id: str) -> str:
    return f"/v1/users/{quote(user_id, safe='')}"


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    is_problem = "json" in response.headers.get("content-type", "")
    detail = response.json().get("detail", "") if is_problem else response.text[:200]
    request = response.request
    raise ServiceRefused(f"{request.method} {request.url} was answered with {response.status_code}: {detail}")
