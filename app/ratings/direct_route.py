"""Routes of one JSON body that lead straight from its bytes to the endpoint.

FastAPI makes objects of the body and a model of the objects, asks every dependency, and validates the answer, which
takes longer than a rating takes to be looked up and stored. Here a body that is right is read once. All others go
FastAPI's way from the beginning, so that they are refused, or understood, as they are by any other route. The OpenAPI
document is FastAPI's too: it knows nothing of the short way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError


class DirectRoute(APIRoute):
    """For endpoints of `body`, a model, and `request`, which answer with a response of their own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        by_fastapi = super().get_route_handler()
        assert self.body_field is not None
        model: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]
        endpoint: Callable[[Any, Request], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") == "application/json":
                try:
                    body = model.model_validate_json(await request.body())
                except ValidationError:
                    pass
                else:
                    return await endpoint(body, request)
            return await by_fastapi(request)

        return handle
