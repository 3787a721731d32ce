"""The trainer process of an embedded service: exactly one runs, however many API processes there are."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from typing import IO

from app.periodic_thread import PeriodicThread
from app.settings import Settings

log = logging.getLogger(__name__)

LOCK_POLL_INTERVAL = 1.0
PROCESS_POLL_INTERVAL = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_HEALTHY = 30.0
"""A trainer that lived this many seconds is restarted after the first pause, however often others died before."""
_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


class EmbeddedTrainer:
    """Every API process has one; the one that gets the lock file keeps a trainer process alive.

    The trainer inherits the lock: when the API process is killed, no other one can start a second trainer before the
    first has noticed and ended.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Linux ends the trainer when the thread that started it ends, so one thread lives until `stop`.
        self._thread = PeriodicThread(self._supervise, 0.0, "embedded-trainer")
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = _FIRST_PAUSE

    @property
    def pid(self) -> int | None:
        """Process id of the trainer that this process keeps alive, if any."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have the trainer hand its run back and end; returns when it has."""
        self._thread.stop()

    def _supervise(self) -> None:
        """Wait for the lock, then keep a trainer alive until `stop`; after an error of any kind try again."""
        try:
            self._settings.data_dir.mkdir(parents=True, exist_ok=True)
            with (self._settings.data_dir / "trainer.lock").open("a") as lock:
                while not _try_lock(lock):
                    if self._thread.wait(LOCK_POLL_INTERVAL):
                        return
                self._keep_alive(lock)
        except Exception:
            log.exception("the trainer process cannot be started; trying again in %.1f s", self._pause)
            self._back_off()

    def _keep_alive(self, lock: IO[str]) -> None:
        while not self._thread.is_stopping:
            self._process = process = self._spawn(lock)
            lived = self._wait_for(process)
            if process.poll() is None:  # because of `stop`
                _end(process)
                return
            if lived >= _HEALTHY:
                self._pause = _FIRST_PAUSE
            log.error("the trainer process ended with status %s; next start in %.1f s", process.returncode, self._pause)
            self._back_off()

    def _back_off(self) -> None:
        self._thread.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _wait_for(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until the process has ended or `stop` is called; returns about how many seconds it lived."""
        lived = 0.0
        while process.poll() is None and not self._thread.wait(PROCESS_POLL_INTERVAL):
            lived += PROCESS_POLL_INTERVAL
        return lived

    def _spawn(self, lock: IO[str]) -> subprocess.Popen[bytes]:
        """Settings go through a pipe: arguments and environment would show the database password to others."""
        process = subprocess.Popen(
            [sys.executable, "-m", "app.worker", "--settings-from-stdin", "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=(lock.fileno(),),
            process_group=0,  # Ctrl-C reaches the service only, which then ends the trainer
        )
        assert process.stdin is not None
        try:
            with process.stdin:
                process.stdin.write(self._settings.model_dump_json().encode())
        except BrokenPipeError:
            log.error("the trainer process ended before it had read its settings")
        return process


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        log.error("the trainer process does not end: killing it; another trainer will take over its run")
        process.kill()
        process.wait()
