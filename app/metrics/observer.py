"""Around every request: an id, a count, its duration, and a line in the log where that is wanted."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import CurrentRequest, current_request, route_of
from app.metrics.instruments import REQUEST_SECONDS, REQUESTS

log = logging.getLogger("app.requests")

UNKNOWN_ROUTE = "unknown"
"""All paths that do not exist are one: else anybody could make as many time series as there are paths."""
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_USABLE_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")


class Observer:
    """Pure ASGI, outermost of the service's own; it costs a few microseconds a request, a line in the log ten more."""

    def __init__(self, app: ASGIApp, is_logging: bool) -> None:
        self._app = app
        self._is_logging = is_logging
        self._instruments: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = self._request_of(scope)
        scope["palate.request_id"] = request.request_id
        id_header = (b"x-request-id", request.request_id.encode("ascii"))
        status = 500  # what the server answers where the service raises

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), id_header]}
            await send(message)

        current_request.set(request)  # every request runs in a context of its own, which ends with it
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _request_of(self, scope: Scope) -> CurrentRequest:
        request_id = traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _USABLE_ID.fullmatch(value):
                request_id = value.decode("ascii")
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        return CurrentRequest(request_id or f"{self._prefix}-{next(self._numbers):x}", traceparent, scope)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        which = (method, route_of(scope) or UNKNOWN_ROUTE, status)
        known = self._instruments.get(which)
        if known is None:
            known = REQUESTS.labels(*which), REQUEST_SECONDS.labels(*which[:2])
            self._instruments[which] = known
        counter, histogram = known
        counter.inc()
        histogram.observe(seconds)
        if self._is_logging:
            milliseconds = round(1000 * seconds, 3)
            facts = {"status": status, "duration_ms": milliseconds}
            log.info("%s %s %d in %.1f ms", *which, milliseconds, extra={"facts": facts})
