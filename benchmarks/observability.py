"""The cost of counting, timing and logging a request: `python -m benchmarks.observability`.

An empty application is requested without and with the middleware of the service, and with the metrics of a list of
recommendations, for one process and for several that share metrics, and with log lines.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import JsonLines
from app.metrics.instruments import TOP_N_SECONDS, USERS_ANSWERED
from app.metrics.observer import Observer

N_REQUESTS, ROUNDS = 20_000, 9
FOLDED_IN = USERS_ANSWERED.labels("folded_in")
HEADERS = [
    (b"host", b"localhost:8000"),
    (b"user-agent", b"client/1.0"),
    (b"accept", b"*/*"),
    (b"authorization", b"Bearer plt_0123456789"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
]


class Route:
    path = "/v1/users/{user_id}/recommendations"


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    scope["route"] = Route
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def counting_answer(scope: Scope, receive: Receive, send: Send) -> None:
    with TOP_N_SECONDS.time():
        pass
    FOLDED_IN.inc()
    await answer(scope, receive, send)


async def microseconds(app: ASGIApp) -> float:
    """Time of a request in the fastest round."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_message: Message) -> None:
        return None

    quickest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(N_REQUESTS):
            scope = {"type": "http", "method": "GET", "path": "/v1/users/ann", "headers": HEADERS, "state": {}}
            await app(scope, receive, send)
        quickest = min(quickest, (time.perf_counter() - started) / N_REQUESTS)
    return 1e6 * quickest


def measure() -> None:
    bare = asyncio.run(microseconds(answer))
    observed = asyncio.run(microseconds(Observer(answer, is_logging=False)))
    listed = asyncio.run(microseconds(Observer(counting_answer, is_logging=False)))
    with Path(os.devnull).open("w") as nowhere:
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(JsonLines("service"))
        logging.getLogger("app").addHandler(handler)
        logging.getLogger("app").setLevel("INFO")
        logged = asyncio.run(microseconds(Observer(answer, is_logging=True)))
    print(
        f"any request {observed - bare:.1f} us, a list of recommendations {listed - bare:.1f} us, "
        f"a JSON line {logged - observed:.1f} us"
    )


def main() -> None:
    if sys.argv[1:] == ["--here"]:
        measure()
        return
    command = [sys.executable, "-m", "benchmarks.observability", "--here"]
    print("one process:       ", end="", flush=True)
    subprocess.run(command, check=True)
    with tempfile.TemporaryDirectory() as folder:
        print("several processes: ", end="", flush=True)
        subprocess.run(command, check=True, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder})


if __name__ == "__main__":
    main()
