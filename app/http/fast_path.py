"""The fast path: a route that parses its request itself, because FastAPI takes longer than the answer does.

A route of the class `fast_route(answer)` sends the response of `answer`. If that is None, FastAPI handles the request
from the beginning, so invalid requests are refused as by any other route. The OpenAPI document is FastAPI's alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send


def fast_route(answer: Callable[[bytes, Request], Awaitable[Response | None]]) -> type[APIRoute]:
    """The route class that hands `answer` the body: b"" for methods without one, and only JSON bodies otherwise."""

    class FastRoute(APIRoute):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            if self.methods and scope["method"] in self.methods:
                request, body = Request(scope, receive), b""
                if self.body_field is not None:
                    body, receive = await _read_json_body(request, receive)
                response = await answer(body, request)
                if response is not None:
                    await response(scope, receive, send)
                    return
            await super().handle(scope, receive, send)

    return FastRoute


async def _read_json_body(request: Request, receive: Receive) -> tuple[bytes, Receive]:
    """The body, b"" if it is not JSON or the client has gone, and what FastAPI can receive it from again."""
    if request.headers.get("content-type") != "application/json":
        return b"", receive
    try:
        body = await request.body()
    except ClientDisconnect:  # the server reports it again to whoever receives again
        return b"", receive
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return body, receive_again
