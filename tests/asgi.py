"""The service inside the test process: real requests through ASGI, its lifespan run, no port and no server."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI


class PortalTransport(httpx.BaseTransport):
    """Hands each request to the app on the portal's event loop, so that tests need not be asynchronous."""

    def __init__(self, app: FastAPI, portal: BlockingPortal) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        status, headers, body = self._portal.call(self._handle, request, request.read())
        return httpx.Response(status, headers=headers, content=body)

    async def _handle(self, request: httpx.Request, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        answer = await self._transport.handle_async_request(
            httpx.Request(request.method, request.url, headers=request.headers, content=body)
        )
        return answer.status_code, answer.headers, await answer.aread()


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the app between its start-up and its shutdown."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        httpx.Client(transport=PortalTransport(app, portal), base_url="http://localhost") as client,
    ):
        yield client
