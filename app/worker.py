"""The trainer process: claim a run, work on it, ask the retrain policy; `python -m app.worker` or `palate worker`."""

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
from collections.abc import Callable
from types import FrameType

from threadpoolctl import threadpool_limits

from app.db.engine import Database, open_database
from app.engine.hyperparameters import Hyperparameters
from app.engine.precompile import precompile_training_kernels
from app.logs import set_up_logs
from app.settings import Settings
from app.training import queue, run
from app.training.lease import DATABASE_IS_AWAY
from app.training.models import RunKind
from app.training.queue import Claim, Epoch, LeaseLost
from app.training.retrain_policy import Watch
from app.training.wait_for_run import Work
from app.tuning import store as searches
from app.tuning import study

log = logging.getLogger("app.worker")  # also where it runs as __main__

PATIENCE = 1.5
"""Seconds that a run has to stop by itself at shutdown; then it is handed back over its head."""
_GLANCE = 0.1
_SHOWN_EVERY = 1.0
_LONGEST_WAIT = 5.0
_PR_SET_PDEATHSIG = 1

EXECUTE: dict[RunKind, Work] = {"train": run.execute, "search": study.execute}
"""What works on a run of each kind."""


def execute(
    database: Database,
    settings: Settings,
    claim: Claim,
    *,
    is_stopping: Callable[[], bool],
    on_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Work on a claimed run of any kind until it has an outcome, or is handed back."""
    EXECUTE[claim.kind](database, settings, claim, is_stopping=is_stopping, on_epoch=on_epoch)


class Worker:
    """Works on one run after the other until it is told to stop."""

    def __init__(self, database: Database, settings: Settings, parent: int | None = None) -> None:
        self._database = database
        self._settings = settings
        self._parent = parent
        self._watch = Watch(settings.retrain, settings.versions_dir)
        self._defaults = settings.recipe
        self._name = queue.worker_name()
        self._shown_at = 0.0
        self._is_told_to_stop = False  # no Event: setting one in a signal handler may wait for itself

    def stop(self) -> None:
        """Hand back what is being worked on and end; safe to call from anywhere, a signal handler too."""
        self._is_told_to_stop = True

    def is_stopping(self) -> bool:
        """Whether to end: told to, or the service that started this process is gone."""
        return self._is_told_to_stop or (self._parent is not None and os.getppid() != self._parent)

    def work(self) -> bool:
        """Returns when stopped; False when a run did not end in time and its thread is still at it."""
        wait = poll = self._settings.training.poll_interval.total_seconds()
        while not self.is_stopping():
            try:
                claim = self._next()
                wait = poll
            except DATABASE_IS_AWAY as error:
                log.warning("the database is away, looking again in %.1f s: %s", wait, error.orig)
                claim, wait = None, min(2 * wait, _LONGEST_WAIT)
            if claim is None:
                self._pause(wait)
            elif not self._work_on(claim):
                return False
        return True

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.is_stopping() and (left := until - time.monotonic()) > 0:
            self._show_life()
            time.sleep(min(left, _GLANCE))

    def _show_life(self) -> None:
        file = self._settings.training.sign_of_life
        if file and time.monotonic() - self._shown_at >= _SHOWN_EVERY:
            file.touch()
            self._shown_at = time.monotonic()

    def _next(self) -> Claim | None:
        """The next run to work on: one that waits, or one that the policy asks for now."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            is_due = self._watch.is_due(connection, now)
            if not is_due and not queue.is_claimable(connection, now):
                return None
        with self._database.write() as connection:
            now = self._database.now(connection)
            if is_due and self._watch.is_due(connection, now):
                chosen = searches.standing_choice(connection, self._defaults) or self._defaults
                queue.enqueue(connection, "policy", chosen.hyperparameters, now, chosen.loss)
            return queue.claim(connection, self._name, self._settings.training.lease, now)

    def _work_on(self, claim: Claim) -> bool:
        """A thread works, this one stays free for signals, which Python handles in the main thread only."""
        thread = threading.Thread(target=self._execute, args=(claim,), name="run", daemon=True)
        thread.start()
        while thread.is_alive() and not self.is_stopping():
            self._show_life()
            thread.join(_GLANCE)
        thread.join(PATIENCE)
        if thread.is_alive():
            self._take_back(claim)
        return not thread.is_alive()

    def _execute(self, claim: Claim) -> None:
        execute(self._database, self._settings, claim, is_stopping=self.is_stopping)

    def _take_back(self, claim: Claim) -> None:
        with contextlib.suppress(LeaseLost, *DATABASE_IS_AWAY), self._database.write() as connection:
            queue.hand_back(connection, claim, self._database.now(connection))
            log.info("run %d is back in the queue", claim.run_id)


def precompile(settings: Settings) -> None:
    """Compile the kernels that serving and training with these settings need, or load them from the cache."""
    hyperparameters = Hyperparameters.from_dict(settings.hyperparameters)
    kernels = ("app.training.snapshot.kernels",)
    precompile_training_kernels(hyperparameters, settings.loss, settings.kernels_dir, extra_modules=kernels)


def main(settings: Settings | None = None, parent: int | None = None) -> int:
    """Work until SIGTERM or SIGINT, or until process `parent` is gone; returns the exit status."""
    settings = settings or Settings()
    set_up_logs(settings, "trainer")
    database = open_database(settings)
    worker = Worker(database, settings, parent)

    def stop(_number: int, _frame: FrameType | None) -> None:
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if parent is not None:
        _die_with_parent()
    with threadpool_limits(1):  # the fit brings its own threads
        precompile(settings)
        log.info("ready")
        is_done = worker.work()
    database.dispose()
    logging.shutdown()
    if not is_done:
        os._exit(0)  # the interpreter would wait for the threads of a fit whose run is handed back already
    return 0


def _die_with_parent() -> None:
    """Have Linux send SIGTERM when the parent ends; elsewhere the worker finds out by looking."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _settings_from_stdin() -> Settings:
    return Settings.model_validate_json(sys.stdin.read())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m app.worker", description=__doc__)
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    parser.add_argument("--settings-from-stdin", action="store_true", help="read settings as JSON instead")
    given = parser.parse_args()
    sys.exit(main(_settings_from_stdin() if given.settings_from_stdin else Settings(), given.parent))
