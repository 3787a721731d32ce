"""Clients that stop reading an export hold up nobody but other exports."""

import anyio
import httpx
from fastapi import FastAPI

from app.main import create_app
from app.settings import Settings

MANY = 40  # more than there are database connections


async def read_no_further(app: FastAPI, answers: list[int]) -> None:
    """Ask for an export, take the first block of the answer and never another."""

    async def receive() -> dict[str, object]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            answers.append(int(str(message["status"])))
        elif b'"dune"' in bytes(message["body"]):  # type: ignore[arg-type]
            await anyio.sleep_forever()

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET"}
    where = {"path": "/v1/ratings/export", "raw_path": b"/v1/ratings/export", "query_string": b"", "headers": []}
    await app(scope | where | {"scheme": "http", "server": ("palate", 80), "root_path": ""}, receive, send)  # type: ignore[arg-type]


async def wait_for_answers(answers: list[int], n: int) -> None:
    with anyio.fail_after(20):
        while len(answers) < n:
            await anyio.sleep(0.01)


def test_clients_that_stop_reading_an_export_hold_up_only_other_exports(settings: Settings) -> None:
    async def scene() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            await client.post("/v1/ratings", json={"user_id": "ann", "item_id": "dune", "value": 4})
            answers: list[int] = []
            async with anyio.create_task_group() as readers:
                for _ in range(MANY):
                    readers.start_soon(read_no_further, app, answers)
                await wait_for_answers(answers, MANY)
                assert (answers.count(200), answers.count(503)) == (4, MANY - 4)
                refused = await client.get("/v1/ratings/export")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert (await client.get("/readyz")).json()["is_ready"]
                assert (await client.get("/v1/users/ann/recommendations")).status_code == 200
                readers.cancel_scope.cancel()
            assert (await client.get("/v1/ratings/export")).status_code == 200

    anyio.run(scene)
