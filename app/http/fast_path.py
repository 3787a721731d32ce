"""Routes that lead straight from the bytes of a body to the answer.

FastAPI makes objects of the body and a model of the objects, asks every dependency, and validates the answer, which
takes longer than a rating takes to be looked up. Here a body that is right is read once. All others go FastAPI's way
from the beginning, so that they are refused, or understood, as they are by any other route. The OpenAPI document is
FastAPI's too: it knows nothing of the short way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

Body = TypeVar("Body")


def direct_route(
    read: Callable[[bytes, Request], Body | None], answer: Callable[[Body, Request], Awaitable[Response]]
) -> type[APIRoute]:
    """The class of a route that answers what `read` makes of a body; of what it makes None, FastAPI's way is gone."""

    class DirectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            by_fastapi = super().get_route_handler()

            async def handle(request: Request) -> Response:
                if request.headers.get("content-type") == "application/json":
                    try:
                        body = read(await request.body(), request)
                    except ClientDisconnect:  # it is told again to who asks again
                        body = None
                    if body is not None:
                        return await answer(body, request)
                return await by_fastapi(request)

            return handle

    return DirectRoute
