"""Several API processes: what they share, and what becomes of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from app.demo.service_process import RunningService, free_port, running_service
from tests.conftest import KERNELS, unmigrated_postgres
from tests.training.world import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks API processes")

ENVIRONMENT = {"PALATE_KERNEL_CACHE_DIR": str(KERNELS), "PALATE_TRAINER": "external"}
N_WORKERS = 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path, workers=N_WORKERS, environment=ENVIRONMENT) as service:
        yield service


def who_answers(service: RunningService) -> set[str]:
    """A name for each process that answers one of many connections: request ids begin with one."""
    names = set()
    for _ in range(40):
        try:
            answer = httpx.get(f"{service.url}/readyz")
        except httpx.TransportError:  # the connection had been given to one that was killed
            continue
        assert answer.status_code == 200
        names.add(answer.headers["x-request-id"].partition("-")[0])
    return names


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_workers_are_forks_of_a_process_with_one_thread_and_all_of_them_answer(service: RunningService) -> None:
    wait_until(lambda: len(who_answers(service)) == N_WORKERS)
    programs = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (service.process.pid, *service.workers)}
    assert len(programs) == 1, "a new interpreter was started"
    assert [task.name for task in Path(f"/proc/{service.process.pid}/task").iterdir()] == [str(service.process.pid)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_worker_that_a_signal_ended_is_followed_by_another(service: RunningService, number: signal.Signals) -> None:
    wait_until(lambda: len(who_answers(service)) == N_WORKERS)
    ended, stayed = service.workers
    os.kill(ended, number)  # the parent's handlers, which keep signals for later, must not have come along
    wait_until(lambda: ended not in service.workers and len(service.workers) == N_WORKERS)
    assert stayed in service.workers
    wait_until(lambda: len(who_answers(service)) == N_WORKERS)


def test_sighup_replaces_all_workers_one_after_the_other(service: RunningService) -> None:
    first = set(service.workers)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(service.workers) == N_WORKERS and not first & set(service.workers))
    wait_until(lambda: len(who_answers(service)) == N_WORKERS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_ends_all(service: RunningService, number: signal.Signals) -> None:
    workers = service.workers
    service.process.send_signal(number)
    assert service.process.wait(30) == 0
    assert not any(map(is_alive, workers))


def test_workers_do_not_outlive_a_parent_that_is_killed(service: RunningService) -> None:
    workers = service.workers
    service.process.kill()
    wait_until(lambda: not any(map(is_alive, workers)))


def test_a_signal_that_comes_before_the_workers_serve_ends_them_too(tmp_path: Path) -> None:
    service = begin_to_serve(tmp_path)
    try:
        wait_until(lambda: len(service.workers) == N_WORKERS)
        workers = service.workers
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
        assert not any(map(is_alive, workers))
    finally:
        service.process.kill()


def test_a_taken_port_is_told_before_there_is_any_worker(service: RunningService, tmp_path: Path) -> None:
    second = begin_to_serve(tmp_path / "second", port=service.url.rpartition(":")[2])
    assert second.process.wait(30) == 3
    assert "Address already in use" in second.log.read_text()
    assert "Started parent process" not in second.log.read_text()


def test_a_schema_that_is_not_current_is_told_once(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with unmigrated_postgres(request) as url:
        service = begin_to_serve(tmp_path, environment={"PALATE_DATABASE_URL": url})
        assert service.process.wait(30) == 1
    assert service.log.read_text().count("run `palate migrate` first") == 1


CANNOT_START = """
import uvicorn
from app.metrics.multiprocess import shared_folder
with shared_folder():
    from app.api_processes import fork_workers
    fork_workers()
    uvicorn.run("tests.test_api_processes:refuses_to_start", workers=2, port=0, lifespan="on")
"""


async def refuses_to_start(scope: Mapping[str, object], receive: object, send: object) -> None:
    raise AssertionError("it cannot start")


def test_workers_that_cannot_start_end_the_whole_instead_of_being_followed_by_others() -> None:
    command = [sys.executable, "-c", CANNOT_START]
    ended = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert "failed to start, stopping the parent process" in ended.stderr
    assert ended.stderr.count("Started server process") == 2


def begin_to_serve(
    folder: Path, port: str | None = None, environment: Mapping[str, str] | None = None
) -> RunningService:
    """As `running_service`, but it waits for nothing."""
    folder.mkdir(exist_ok=True)
    port = port or str(free_port())
    command = [sys.executable, "-m", "app.cli", "serve", "--port", port, "--workers", str(N_WORKERS)]
    variables = {**os.environ, **ENVIRONMENT, "PALATE_DATA_DIR": str(folder), **(environment or {})}
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
    return RunningService(f"http://127.0.0.1:{port}", process, log)
