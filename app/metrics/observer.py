"""Middleware that gives every request an id, counts and times it, and logs it if the settings say so."""

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
"""The label of all paths that do not exist: otherwise a client could create any number of time series."""
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_USABLE_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")


class Observer:
    """Pure ASGI, the outermost middleware of the service. Costs a few microseconds a request, a log line ten more."""

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
        status = 500  # the server's response if the app raises

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), id_header]}
            await send(message)

        current_request.set(request)  # every request runs in its own context
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _request_of(self, scope: Scope) -> CurrentRequest:
        request_id = traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _USABLE_ID.fullmatch(value):
                request_id = value.decode("ascii")
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        return CurrentRequest(request_id or f"{self._prefix}-{next(self._numbers):x}", traceparent, scope)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        labels = (method, route_of(scope) or UNKNOWN_ROUTE, status)
        instruments = self._instruments.get(labels)
        if instruments is None:
            instruments = REQUESTS.labels(*labels), REQUEST_SECONDS.labels(*labels[:2])
            self._instruments[labels] = instruments
        counter, histogram = instruments
        counter.inc()
        histogram.observe(seconds)
        if self._is_logging:
            milliseconds = round(1000 * seconds, 3)
            facts = {"status": status, "duration_ms": milliseconds}
            log.info("%s %s %d in %.1f ms", *labels, milliseconds, extra={"facts": facts})
