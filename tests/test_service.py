"""The service as a process: what is left when it is killed, and how it stops."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.demo.service_process import running_service
from tests.conftest import KERNELS

ENVIRONMENT = {"PALATE_KERNEL_CACHE_DIR": str(KERNELS), "PALATE_TRAINER": "external"}
BATCH = 2_000


def batch(number: int) -> dict[str, object]:
    return {"ratings": [{"user_id": f"u{number}", "item_id": f"i{item}", "value": 3} for item in range(BATCH)]}


def post_batches(url: str, acknowledged: list[int]) -> None:
    """Post batch after batch, and note each that was answered with success."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(100_000):
            client.post("/v1/ratings/batch", json=batch(number)).raise_for_status()
            acknowledged.append(number)


def test_of_the_batches_in_flight_when_the_service_is_killed_each_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    with running_service(tmp_path, environment=ENVIRONMENT) as service:
        killer = threading.Timer(1.0, service.process.kill)
        killer.start()
        with pytest.raises(httpx.TransportError):
            post_batches(service.url, acknowledged)
    assert acknowledged
    with running_service(tmp_path, environment=ENVIRONMENT) as service, httpx.Client(base_url=service.url) as client:
        n_ratings = client.get("/v1/status").json()["n_ratings"]
        for number in acknowledged:
            page = client.get(f"/v1/users/u{number}/ratings?limit=1").json()
            assert page["ratings"], f"batch {number} was acknowledged and is gone"
    assert n_ratings % BATCH == 0
    assert n_ratings // BATCH in {len(acknowledged), len(acknowledged) + 1}  # the last may be stored but not answered


def test_a_stopping_service_finishes_its_requests_and_ends_its_event_streams(tmp_path: Path) -> None:
    body = json.dumps(batch(0)).encode()
    is_told = threading.Event()

    def slow_body() -> Iterator[bytes]:
        yield body[:1000]
        is_told.wait(30)
        yield body[1000:]

    answers: list[httpx.Response] = []

    def post() -> None:
        headers = {"Content-Type": "application/json"}
        answers.append(httpx.post(f"{service.url}/v1/ratings/batch", content=slow_body(), headers=headers, timeout=30))

    with running_service(tmp_path, environment=ENVIRONMENT) as service:
        posting = threading.Thread(target=post)
        with httpx.Client(base_url=service.url, timeout=30) as client:
            run = client.post("/v1/training-runs").json()  # no trainer: it stays queued, and its stream stays open
            with client.stream("GET", f"/v1/training-runs/{run['id']}/events") as stream:
                lines = stream.iter_lines()
                next(lines)
                posting.start()
                time.sleep(1)  # the beginning of the body is there by then
                started = time.monotonic()
                service.process.send_signal(signal.SIGTERM)
                is_told.set()
                for _ in lines:
                    pass
        posting.join()
        service.process.wait(20)
    assert answers[0].status_code == 200
    assert answers[0].json()["created"] == BATCH
    assert time.monotonic() - started < 15  # far below the server's patience with connections that do not end
    assert "Application shutdown complete" in service.log.read_text()
