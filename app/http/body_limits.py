"""Limits on the length of requests, and on how slowly their bodies may arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette._utils import get_route_path  # as the routes read it, behind a proxy's prefix too
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import PROBLEM_JSON, problem, respond
from app.http.openapi import amend_document, declare_on, operations_of
from app.settings import Limits

MIN_BYTES_PER_SECOND = 1024
"""Each KiB extends the timeout of a body by a second: a slow client holds a connection for a while, not for hours."""

MAX_HEAD = 1 << 16
"""Longest request line with all headers, in bytes, and longest chunk headers and trailers of a body."""

_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}
_CLOSE = {"Connection": "close"}  # the rest of the body would be parsed as the next request


class BodyLimits:
    """Refuses bodies that are too long (413) or arrive too slowly (408); paths in `any_length` only the latter."""

    def __init__(self, app: ASGIApp, limits: Limits, any_length: Collection[str]) -> None:
        self._app = app
        self._max_bytes = limits.max_body_bytes
        self._timeout = limits.body_timeout.total_seconds()
        self._any_length = any_length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _WITHOUT_BODY:
            max_bytes = None if get_route_path(scope) in self._any_length else self._max_bytes
            if max_bytes is not None and _declared_length(scope) > max_bytes:
                await respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_long(max_bytes), _CLOSE)(scope, receive, send)
                return
            receive = _WatchedBody(receive, max_bytes, self._timeout)
        await self._app(scope, receive, send)


class _WatchedBody:
    """Receives a body; raises the problem as soon as the body is too long or too slow."""

    def __init__(self, receive: Receive, max_bytes: int | None, timeout: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._n_bytes = 0
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # waits for the client to disconnect, however long that takes
            return await self._receive()
        clock = asyncio.get_running_loop().time
        started_at = clock()
        try:
            async with asyncio.timeout_at(started_at + self._timeout):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body arrived too slowly: timed out after {self._n_bytes} bytes"
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail, _CLOSE) from None
        n_bytes = len(message.get("body", b""))
        self._n_bytes += n_bytes
        self._timeout += n_bytes / MIN_BYTES_PER_SECOND - (
            clock() - started_at
        )  # counts only the waiting, not the processing
        self._is_whole = not message.get("more_body", False)
        if self._max_bytes is not None and self._n_bytes > self._max_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_long(self._max_bytes), _CLOSE)
        return message


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol with a limit on heads and trailers, which otherwise may fill the memory.

    Counts the bytes since the last complete head or body part; at most one read of the socket above the limit.
    """

    _n_pending = 0

    def data_received(self, data: bytes) -> None:
        self._n_pending += len(data)
        super().data_received(data)
        if self._n_pending > MAX_HEAD and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"the request line and headers are longer than {MAX_HEAD} bytes",
                )
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._n_pending = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._n_pending = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """The 400 response as a problem, like all errors."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)
        self.transport.close()

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        body = problem(status, detail).model_dump_json()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {PROBLEM_JSON}\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii"))


def _declared_length(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


def _too_long(max_bytes: int) -> str:
    return f"the body is longer than {max_bytes} bytes (PALATE_LIMITS_MAX_BODY_BYTES); split it"


def declare_limits(app: FastAPI, any_length: Collection[str]) -> None:
    """Add these errors to the OpenAPI document."""

    def amend(document: dict[str, Any]) -> None:
        for _, path, operation in operations_of(document):
            if "requestBody" in operation:
                declare_on(operation, HTTPStatus.REQUEST_TIMEOUT)
                if path not in any_length:
                    declare_on(operation, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    amend_document(app, amend)
