"""The trainer process of an embedded service: exactly one runs, however many API processes there are."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from app.settings import Settings

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_HEALTHY = 30.0
"""Seconds of life after which a trainer's death is taken for an accident and not for a habit."""
_GRACE = 10.0


class EmbeddedTrainer:
    """Every API process has one; the one that gets the lock file keeps a trainer process alive.

    The trainer inherits the lock. So when the API process is killed, no other starts a second trainer before the
    first one has noticed and ended.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Process number of the trainer that this process keeps alive, None where it keeps none."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        self._stop.clear()
        # Linux ends the trainer when the thread that started it ends; this one lives until `stop`.
        self._thread = threading.Thread(target=self._supervise, name="embedded-trainer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the trainer hand its run back and end; returns when it has."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def _supervise(self) -> None:
        """The edge of the thread: whatever it was, a service without a trainer must say so, and try again."""
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._take_turns()
            except Exception:
                log.exception("the trainer process cannot be started; trying again in %.1f s", pause)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _take_turns(self) -> None:
        """Wait for the lock, then keep a trainer alive; returns when told to stop."""
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        with _open(self._settings.data_dir / "trainer.lock") as lock:
            while not self._has_lock(lock):
                if self._stop.wait(LOOK_INTERVAL):
                    return
            self._keep_alive(lock)

    def _has_lock(self, lock: IO[str]) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _keep_alive(self, lock: IO[str]) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            self._process = process = self._spawn(lock)
            lived = self._wait_for(process)
            if self._stop.is_set():
                _end(process)
                return
            pause = _FIRST_PAUSE if lived >= _HEALTHY else min(2 * pause, _LONGEST_PAUSE)
            log.error("the trainer process ended with status %s; next start in %.1f s", process.returncode, pause)
            self._stop.wait(pause)

    def _wait_for(self, process: subprocess.Popen[bytes]) -> float:
        """Seconds until the process ended or is to be ended, roughly."""
        glance, lived = 0.1, 0.0
        while process.poll() is None and not self._stop.wait(glance):
            lived += glance
        return lived

    def _spawn(self, lock: IO[str]) -> subprocess.Popen[bytes]:
        """Settings travel by a pipe: an argument or a variable would show the database's password to others."""
        process = subprocess.Popen(
            [sys.executable, "-m", "app.worker", "--settings-from-stdin", "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=(lock.fileno(),),
            process_group=0,  # Ctrl-C goes to the service, which ends the trainer in its turn
        )
        assert process.stdin is not None
        try:
            with process.stdin:
                process.stdin.write(self._settings.model_dump_json().encode())
        except BrokenPipeError:
            log.error("the trainer process ended before it had read its settings")
        return process


def _open(path: Path) -> IO[str]:
    return path.open("a")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        log.error("the trainer process does not end; it is killed, and its run will be taken over")
        process.kill()
        process.wait()
