"""Recommendations per second from one worker while a training run is going on.

    .venv/bin/python -m benchmarks.recommendations_under_training ../shared/data/ml-latest-small/ratings.csv

Sixteen keep-alive connections ask for the top 10 of changing users as fast as they are answered, first idle, then
while the trainer works without a pause. Every answer must be a 200 with ten items. Prints requests/s, p50, p99.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

from app.demo.service_process import running_service
from benchmarks.http_folds import train

CONNECTIONS = 16


@dataclass
class Load:
    """What one period of load saw."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    def line(self, name: str) -> str:
        p50, p99 = np.percentile(np.array(self.latencies) * 1e3, [50, 99])
        rate = len(self.latencies) / self.seconds
        return f"{name:<16} {rate:8.0f} requests/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   {self.errors} errors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    users = sorted({row[0] for row in list(csv.reader(arguments.ratings.open()))[1:]})
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), environment={"PALATE_RETRAIN_IS_ON": "false"}) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
    ):
        client.post("/v1/ratings/import", content=arguments.ratings.read_bytes()).raise_for_status()
        train(client)
        load(service.url, users, 2.0)
        print(load(service.url, users, arguments.seconds).line("idle"))
        run = client.post("/v1/training-runs", json={"n_epochs": 10_000, "patience": 10_000}).json()
        while client.get(f"/v1/training-runs/{run['id']}").json()["status"] == "queued":
            time.sleep(0.05)
        print(load(service.url, users, arguments.seconds).line("while training"))
        status = client.get(f"/v1/training-runs/{run['id']}").json()
        print(f"the run is {status['status']} after {len(status['epochs'])} epochs")
        client.post(f"/v1/training-runs/{run['id']}/cancel").raise_for_status()


def load(url: str, users: list[str], seconds: float) -> Load:
    """Ask for `seconds` on every connection at once."""
    return asyncio.run(_load(url, users, seconds))


async def _load(url: str, users: list[str], seconds: float) -> Load:
    result = Load(seconds)
    next_user = itertools.cycle(users)
    deadline = time.perf_counter() + seconds
    await asyncio.gather(*(_ask(urlsplit(url).port or 80, next_user, deadline, result) for _ in range(CONNECTIONS)))
    return result


async def _ask(port: int, users: itertools.cycle[str], deadline: float, result: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (started := time.perf_counter()) < deadline:
        writer.write(f"GET /v1/users/{next(users)}/recommendations?n=10 HTTP/1.1\r\nHost: palate\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        result.latencies.append(time.perf_counter() - started)
        if not head.startswith(b"HTTP/1.1 200") or len(json.loads(body)["items"]) != 10:
            result.errors += 1
    writer.close()


if __name__ == "__main__":
    main()
