"""Heads and bodies that are too long or too slow, and how many imports run at once."""

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI

from app.demo.service_process import HOST, RunningService, running_service
from app.http.body_limits import MAX_HEAD
from app.main import create_app
from app.settings import Limits, Settings
from tests.asgi import serving
from tests.conftest import KERNELS

RATING = b'{"user_id": "ann", "item_id": "dune", "value": 4}'


@pytest.fixture
def limited(sqlite_settings: Settings) -> Settings:
    limits = Limits(max_body_bytes=2048, body_timeout=timedelta(seconds=0.3))
    return sqlite_settings.model_copy(update={"limits": limits})


def test_a_body_that_says_it_is_too_long_is_refused_before_it_is_read(limited: Settings) -> None:
    with serving(create_app(limited)) as client:
        refused = client.post("/v1/ratings", content=RATING + b" " * 2048)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"
        assert "longer than 2048 bytes" in refused.json()["detail"]
        fits = {"user_id": "ann", "item_id": "dune", "value": 4}
        assert client.post("/v1/ratings", json=fits).status_code == 201


def test_an_import_may_have_any_length(limited: Settings) -> None:
    with serving(create_app(limited)) as client:
        lines = "".join(f"ann,item{number},4\n" for number in range(500))
        assert client.post("/v1/ratings/import", content=lines).json()["created"] == 500


async def ask_slowly(
    app: FastAPI, path: str, parts: list[bytes], pause: float, *, is_whole: bool = False
) -> tuple[int, dict[str, object]]:
    """POST a body part by part, without saying its length; its end never comes unless `is_whole`."""
    answer: list[dict[str, object]] = []
    waiting = list(parts)

    async def receive() -> dict[str, object]:
        if not waiting:
            await anyio.sleep_forever()
        await anyio.sleep(pause)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or not is_whole}

    async def send(message: dict[str, object]) -> None:
        answer.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path}
    headers = [(b"content-type", b"application/json")]
    rest = {"headers": headers, "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 80)}
    await app(scope | rest, receive, send)  # type: ignore[arg-type]
    return int(str(answer[0]["status"])), json.loads(bytes(answer[1]["body"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/v1/ratings", "/v1/ratings/import", "/v1/recommendations"])
@pytest.mark.parametrize(("parts", "pause"), [([], 0.0), ([b"{"] * 100, 0.05)], ids=["nothing", "a dribble"])
def test_a_body_that_comes_too_slowly_is_refused(
    limited: Settings, path: str, parts: list[bytes], pause: float
) -> None:
    app = create_app(limited)
    with serving(app):
        status, problem = anyio.run(ask_slowly, app, path, parts, pause)
    assert status == 408
    assert "arrived too slowly" in str(problem["detail"])


def test_a_body_that_does_not_say_its_length_is_refused_once_it_is_too_long(limited: Settings) -> None:
    app = create_app(limited)
    with serving(app):
        status, _ = anyio.run(ask_slowly, app, "/v1/ratings", [b" " * 1000] * 5, 0.0)
    assert status == 413


def test_a_long_body_that_keeps_coming_is_given_its_time(limited: Settings) -> None:
    """Twice the patience in all, but each KiB buys a second."""
    app = create_app(limited)
    with serving(app):
        parts = [b"ann,dune,4\n" * 100] * 6
        status, report = anyio.run(partial(ask_slowly, app, "/v1/ratings/import", parts, 0.1, is_whole=True))
    assert (status, report["created"]) == (200, 1)


def test_a_fifth_import_at_once_is_refused_until_one_is_over(sqlite_settings: Settings) -> None:
    async def scene() -> None:
        app = create_app(sqlite_settings)
        transport = httpx.ASGITransport(app)
        go_on = anyio.Event()

        async def lines() -> object:
            yield b"ann,dune,4\n"
            await go_on.wait()

        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            async with anyio.create_task_group() as importers:
                for _ in range(4):
                    importers.start_soon(lambda: client.post("/v1/ratings/import", content=lines()))  # type: ignore[arg-type]
                with anyio.fail_after(20):
                    while app.state.n_long_requests["imports"] < 4:
                        await anyio.sleep(0.01)
                refused = await client.post("/v1/ratings/import", content=b"bob,dune,4\n")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "4 imports are already in progress" in refused.json()["detail"]
                go_on.set()
            assert (await client.post("/v1/ratings/import", content=b"bob,dune,4\n")).status_code == 200

    anyio.run(scene)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    environment = {
        "PALATE_KERNEL_CACHE_DIR": str(KERNELS),
        "PALATE_TRAINER": "external",
        "PALATE_LIMITS_MAX_BODY_BYTES": "2048",
        "PALATE_LIMITS_BODY_TIMEOUT": "1",
    }
    with running_service(tmp_path, environment=environment) as service:
        yield service


def test_a_real_connection_gets_the_problem_and_is_closed(service: RunningService) -> None:
    port = int(service.url.rpartition(":")[2])
    head = (
        b"POST /v1/ratings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    for length, status in ((5000, b"413"), (len(RATING), b"408")):
        with socket.create_connection((HOST, port), timeout=20) as connection:
            connection.sendall(head % length + RATING[:10])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the service closes it
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"application/problem+json" in answer
    time.sleep(0.1)
    assert httpx.get(f"{service.url}/healthz").status_code == 200


def answer_to(connection: socket.socket, parts: Iterable[bytes]) -> bytes:
    """What the service says before it closes the connection, which it may do before it was sent everything."""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
    with contextlib.suppress(ConnectionError):
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


_CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_head_without_end_does_not_fill_the_memory(service: RunningService) -> None:
    """100 MB of short headers took 1.4 GB."""
    port, n_bytes = int(service.url.rpartition(":")[2]), 64 << 20
    before = memory_of(service.process.pid)
    for head, rest in (
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"a"),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        (_CHUNKED + b"0\r\n", b"x: y\r\n"),  # trailers
        (_CHUNKED + b"1;", b"a"),  # what may stand beside the length of a chunk
    ):
        block = rest * (65536 // len(rest))
        with socket.create_connection((HOST, port), timeout=20) as connection:
            answer_to(connection, [head, *itertools.repeat(block, n_bytes // len(block))])
    assert memory_of(service.process.pid) < before + 20e6
    assert httpx.get(f"{service.url}/healthz").status_code == 200


def memory_of(process: int) -> float:
    [told] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return 1e3 * int(told)


def test_a_head_that_is_too_long_or_makes_no_sense_is_answered_with_a_problem(service: RunningService) -> None:
    port = int(service.url.rpartition(":")[2])
    for head, status in ((b"GET / HTTP/1.1\r\nX-Long: " + b"a" * (MAX_HEAD + 1), b"431"), (b"\0\r\n\r\n", b"400")):
        with socket.create_connection((HOST, port), timeout=20) as connection:
            answer = answer_to(connection, [head])
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"application/problem+json" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == int(status)


def test_a_long_body_in_small_chunks_and_requests_in_a_row_are_no_long_head(service: RunningService) -> None:
    url = f"{service.url}/v1/ratings/import"
    lines = (f"user-{number},dune,4\n".encode() for number in range(4000))
    with httpx.Client() as client:
        for _ in range(3):
            assert client.post(url, content=lines).status_code == 200
            headers = {"X-Long": "a" * (MAX_HEAD - 1000)}
            assert client.get(f"{service.url}/healthz", headers=headers).status_code == 200
