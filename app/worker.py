"""The trainer process: claims runs and works on them, and asks the retrain policy; `python -m app.worker`."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Unpack

from threadpoolctl import threadpool_limits

from app.db.engine import DATABASE_IS_AWAY, Database, open_database
from app.engine.hyperparameters import Hyperparameters
from app.engine.precompile import precompile_training_kernels
from app.logs import set_up_logs
from app.settings import Settings
from app.training import queue, run
from app.training.models import RunKind
from app.training.queue import Claim, LeaseLost
from app.training.retrain_policy import RetrainMonitor
from app.training.run import RunHooks
from app.training.wait_for_run import Work
from app.tuning import store as searches
from app.tuning import study

log = logging.getLogger("app.worker")  # also when it runs as __main__

STOP_TIMEOUT = 1.5
"""Seconds that a run has to stop at shutdown; then it is handed back although its thread still works on it."""
_POLL_INTERVAL = 0.1
_HEARTBEAT_INTERVAL = 1.0
_LONGEST_WAIT = 5.0
_PR_SET_PDEATHSIG = 1

_EXECUTE: Mapping[RunKind, Work] = {"train": run.execute, "search": study.execute}


def execute(database: Database, settings: Settings, claim: Claim, **hooks: Unpack[RunHooks]) -> None:
    """Work on a claimed run of any kind until it has an outcome or is handed back."""
    _EXECUTE[claim.kind](database, settings, claim, **hooks)


class Worker:
    """Works on one run after the other until it is stopped."""

    def __init__(self, database: Database, settings: Settings, parent: int | None = None) -> None:
        self._database = database
        self._settings = settings
        self._parent = parent
        self._retraining = RetrainMonitor(settings.retrain, settings.versions_dir)
        self._name = queue.worker_name()
        self._last_heartbeat = 0.0
        self._is_stop_requested = False  # not an Event: set() in a signal handler may deadlock

    def stop(self) -> None:
        """Hand back the current run and end; safe to call in a signal handler and from any thread."""
        self._is_stop_requested = True

    def is_stopping(self) -> bool:
        """Whether to end: `stop` was called, or the parent process has ended."""
        return self._is_stop_requested or (self._parent is not None and os.getppid() != self._parent)

    def work(self) -> bool:
        """Returns when stopped: True, or False if a run did not end in time and its thread still works on it."""
        wait = poll = self._settings.training.poll_interval.total_seconds()
        while not self.is_stopping():
            try:
                claim = self._claim()
                wait = poll
            except DATABASE_IS_AWAY as error:
                log.warning("the database is unavailable; trying again in %.1f s: %s", wait, error.orig)
                claim, wait = None, min(2 * wait, _LONGEST_WAIT)
            if claim is None:
                self._pause(wait)
            elif not self._work_on(claim):
                return False
        return True

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.is_stopping() and (left := until - time.monotonic()) > 0:
            self._touch_heartbeat_file()
            time.sleep(min(left, _POLL_INTERVAL))

    def _touch_heartbeat_file(self) -> None:
        file = self._settings.training.heartbeat_file
        if file and time.monotonic() - self._last_heartbeat >= _HEARTBEAT_INTERVAL:
            file.touch()
            self._last_heartbeat = time.monotonic()

    def _claim(self) -> Claim | None:
        """The next run: a queued or expired one, or one that the retrain policy starts now."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            is_due = self._retraining.is_due(connection, now)
            if not is_due and not queue.is_claimable(connection, now):
                return None
        with self._database.write() as connection:
            now = self._database.now(connection)
            if is_due and self._retraining.is_due(connection, now):
                defaults = self._settings.recipe
                recipe = searches.published_recipe(connection, defaults) or defaults
                queue.enqueue(connection, "policy", recipe.hyperparameters, now, recipe.loss)
            return queue.claim(connection, self._name, self._settings.training.lease, now)

    def _work_on(self, claim: Claim) -> bool:
        """Work in a thread; the main thread stays free for signals. Returns whether the thread has ended."""
        arguments, hooks = (self._database, self._settings, claim), {"is_stopping": self.is_stopping}
        thread = threading.Thread(target=execute, args=arguments, kwargs=hooks, name="run", daemon=True)
        thread.start()
        while thread.is_alive() and not self.is_stopping():
            self._touch_heartbeat_file()
            thread.join(_POLL_INTERVAL)
        thread.join(STOP_TIMEOUT)
        if not thread.is_alive():
            return True
        with contextlib.suppress(LeaseLost, *DATABASE_IS_AWAY), self._database.write() as connection:
            queue.hand_back(connection, claim, self._database.now(connection))
            log.info("run %d was returned to the queue", claim.run_id)
        return not thread.is_alive()


def precompile(settings: Settings) -> None:
    """Compile the kernels that serving and training with these settings need, or load them from the cache."""
    hyperparameters = Hyperparameters.from_dict(settings.hyperparameters)
    kernels = ("app.training.snapshot.kernels",)
    precompile_training_kernels(hyperparameters, settings.loss, settings.kernels_dir, extra_modules=kernels)


def main(settings: Settings, parent: int | None = None) -> int:
    """Work until SIGTERM or SIGINT, or until the process `parent` has ended; returns the exit status."""
    set_up_logs(settings, "trainer")
    database = open_database(settings)
    worker = Worker(database, settings, parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    if parent is not None and sys.platform == "linux":  # elsewhere `Worker.is_stopping` polls for the end of the parent
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    with threadpool_limits(1):  # the fit starts threads of its own
        precompile(settings)
        log.info("ready")
        has_ended = worker.work()
    database.dispose()
    logging.shutdown()
    if not has_ended:
        os._exit(0)  # the interpreter would wait for the fit, whose run is handed back already
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m app.worker", description=__doc__)
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    parser.add_argument("--settings-from-stdin", action="store_true", help="read settings as JSON from standard input")
    arguments = parser.parse_args()
    sent = Settings.model_validate_json(sys.stdin.read()) if arguments.settings_from_stdin else Settings()
    sys.exit(main(sent, arguments.parent))
