"""The service as a child process on its own port: for the demo, the benchmarks and tests of whole processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

HOST = "127.0.0.1"
START_TIMEOUT = 120.0  # seconds; the first start on a machine compiles the serving kernels
STOP_TIMEOUT = 30.0


class ServiceDidNotStart(Exception):
    """The process ended, or was not ready in time; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that answers at `url`; its output goes to `log`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def workers(self) -> list[int]:
        """Process ids of the API processes if there are several (Linux): children of `process`."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running_service(
    data_dir: Path, *, port: int = 0, workers: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[RunningService]:
    """Start the service on `data_dir`, wait until it is ready, and stop it gracefully at the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    _refuse_taken(port)
    log = data_dir / "service.log"
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--workers", str(workers)]
    variables = {**os.environ, "PALATE_DATA_DIR": str(data_dir), **(environment or {})}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
    service = RunningService(f"http://{HOST}:{port}", process, log)
    try:
        _wait_until_ready(service)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _refuse_taken(port: int) -> None:
    """Another server on this port would be taken for the service that is about to start, and get its data."""
    with socket.socket() as probe:
        # as the server does: closed connections keep the port for a while
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceDidNotStart(f"cannot listen on port {port}: {error.strerror}") from error


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(service: RunningService) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while service.process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{service.url}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    code = service.process.poll()
    problem = f"was not ready after {START_TIMEOUT:.0f} s" if code is None else f"ended with code {code}"
    log = "\n".join(service.log.read_text(errors="replace").splitlines()[-30:])
    raise ServiceDidNotStart(f"the service {problem}:\n{log}")
