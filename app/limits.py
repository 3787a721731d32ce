"""How long a request body may be, and how slowly it may come."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette._utils import get_route_path  # as the routes read it, behind a proxy's prefix too
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import amend_document, declare_on, operations_of, respond
from app.settings import Limits

SLOWEST = 1024
"""Bytes that buy a body another second: a client that dribbles holds a connection for a while, not for hours."""

_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}
_CLOSE = {"Connection": "close"}  # what is still to come of the body would be taken for the next request


class BodyLimits:
    """Refuses bodies that are too long (413) or come too slowly (408); paths of `any_length` only the latter."""

    def __init__(self, app: ASGIApp, limits: Limits, any_length: Collection[str]) -> None:
        self._app = app
        self._max_bytes = limits.body_bytes
        self._patience = limits.body_timeout.total_seconds()
        self._any_length = any_length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _WITHOUT_BODY:
            max_bytes = None if get_route_path(scope) in self._any_length else self._max_bytes
            if max_bytes is not None and _told_length(scope) > max_bytes:
                await respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_long(max_bytes), _CLOSE)(scope, receive, send)
                return
            receive = _WatchedBody(receive, max_bytes, self._patience)
        await self._app(scope, receive, send)


class _WatchedBody:
    """A body on its way in: raises the problem as soon as it is too long or too slow."""

    def __init__(self, receive: Receive, max_bytes: int | None, patience: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._patience = patience
        self._n_bytes = 0
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # who asks on waits for the client to go away, which may take as long as it likes
            return await self._receive()
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        try:
            async with asyncio.timeout_at(asked_at + self._patience):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body came too slowly: {self._n_bytes} bytes of it"
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail, _CLOSE) from None
        n_bytes = len(message.get("body", b""))
        self._n_bytes += n_bytes
        self._patience += n_bytes / SLOWEST - (clock() - asked_at)  # only waiting counts, not what is done meanwhile
        self._is_whole = not message.get("more_body", False)
        if self._max_bytes is not None and self._n_bytes > self._max_bytes:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _too_long(self._max_bytes), _CLOSE)
        return message


def _told_length(scope: Scope) -> int:
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(told) if told.isdigit() else 0


def _too_long(max_bytes: int) -> str:
    return f"the body is longer than {max_bytes} bytes (PALATE_LIMITS_BODY_BYTES): send it in parts"


def declare_limits(app: FastAPI, any_length: Collection[str]) -> None:
    """Put the refusals into the OpenAPI document."""

    def amend(document: dict[str, Any]) -> None:
        for _, path, operation in operations_of(document):
            if "requestBody" in operation:
                declare_on(operation, HTTPStatus.REQUEST_TIMEOUT)
                if path not in any_length:
                    declare_on(operation, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    amend_document(app, amend)
