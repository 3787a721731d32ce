"""A run that the calling process waits for, and works on if no other trainer does: `palate train`, `palate tune`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypedDict, Unpack

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.settings import Settings
from app.training import queue
from app.training.models import FINISHED
from app.training.queue import Claim, Epoch, RunRow, worker_name
from app.training.run import RunHooks, execute


class Hooks(TypedDict, total=False):
    """Callbacks of the caller who waits."""

    on_epoch: Callable[[Epoch], None]
    is_cancelled: Callable[[], bool]
    on_wait: Callable[[str], None]
    """Called with a message when the run cannot be worked on here yet."""


class Work(Protocol):
    """Works on a claimed run, as `run.execute` does."""

    def __call__(self, database: Database, settings: Settings, claim: Claim, **hooks: Unpack[RunHooks]) -> None: ...


def train_now(
    database: Database,
    settings: Settings,
    hyperparameters: Hyperparameters,
    *,
    loss: Loss = SQUARED,
    work: Work = execute,
    **hooks: Unpack[Hooks],
) -> RunRow:
    """Queue a run, wait for it, and return it finished, whatever its outcome.

    `work` is called with every run that is claimed here: those queued before this one come first.
    """
    with database.write() as connection:
        run = queue.enqueue(connection, "cli", hyperparameters, database.now(connection), loss)
    return wait_for_run(database, settings, run, work=work, **hooks)


def wait_for_run(
    database: Database, settings: Settings, run: RunRow, *, work: Work = execute, **hooks: Unpack[Hooks]
) -> RunRow:
    """Wait until a run has finished, and return it.

    This process acts as one more trainer: it works on the run itself, or, while another trainer holds the lease,
    reports the epochs which that one records.
    """
    return _Waiter(database, settings, work, hooks).wait_for(run)


class _Waiter:
    def __init__(self, database: Database, settings: Settings, work: Work, hooks: Hooks) -> None:
        self._database = database
        self._settings = settings
        self._work = work
        self._on_epoch: Callable[[Epoch], None] = hooks.get("on_epoch") or (lambda _: None)
        self._is_cancelled: Callable[[], bool] = hooks.get("is_cancelled") or (lambda: False)
        self._on_wait: Callable[[str], None] = hooks.get("on_wait") or (lambda _: None)
        self._last_message: str | None = None
        self._n_reported = 0
        self._has_worked = False

    def wait_for(self, run: RunRow) -> RunRow:
        while run.status not in FINISHED:
            if self._is_cancelled() and not run.is_cancel_requested:
                self._cancel(run.id)
            claim = None if self._is_cancelled() else self._claim()
            if claim:
                self._work_on(claim, run.id)
            else:
                self._follow(run.id)
                time.sleep(self._settings.training.poll_interval.total_seconds())
            with self._database.read() as connection:
                run = queue.get(connection, run.id)
        self._report_epochs(run.id)
        return run

    def _claim(self) -> Claim | None:
        with self._database.write() as connection:
            now = self._database.now(connection)
            return queue.claim(connection, worker_name(), self._settings.training.lease, now)

    def _work_on(self, claim: Claim, run_id: int) -> None:
        is_ours = claim.run_id == run_id
        self._has_worked |= is_ours
        if not is_ours:
            self._show(f"run {claim.run_id} was queued before this one: training it first")
        on_epoch = self._on_epoch if is_ours else None
        self._work(self._database, self._settings, claim, is_stopping=self._is_cancelled, on_epoch=on_epoch)

    def _follow(self, run_id: int) -> None:
        with self._database.read() as connection:
            running = queue.running(connection)
        if running and running.id == run_id:
            self._show(f"another trainer ({running.worker}) is working on this run")
        elif running:
            self._show(f"waiting for run {running.id}, which another trainer ({running.worker}) is working on")
        self._report_epochs(run_id)

    def _report_epochs(self, run_id: int) -> None:
        """Report the epochs that another trainer has recorded since the last call."""
        if self._has_worked:
            return
        with self._database.read() as connection:
            rows = queue.epochs_of(connection, run_id)
        for row in rows[self._n_reported :]:
            self._on_epoch(Epoch.of(row))
        self._n_reported = len(rows)

    def _cancel(self, run_id: int) -> None:
        with self._database.write() as connection:
            if queue.get(connection, run_id).status not in FINISHED:
                queue.request_cancel(connection, run_id, self._database.now(connection))

    def _show(self, message: str) -> None:
        if message != self._last_message:
            self._on_wait(message)
        self._last_message = message
