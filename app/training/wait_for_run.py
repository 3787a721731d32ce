"""A run that somebody waits for: `palate train`, `palate tune`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypedDict, Unpack

from sqlalchemy import Row

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.sgd.trainer import EpochReport
from app.settings import Settings
from app.training import queue
from app.training.models import FINISHED
from app.training.queue import Claim, Epoch, RunRow, worker_name
from app.training.run import execute


class Hooks(TypedDict, total=False):
    """How whoever waits is told, and says that the run shall end."""

    on_epoch: Callable[[Epoch], None]
    is_cancelled: Callable[[], bool]
    on_wait: Callable[[str], None]


class Work(Protocol):
    """Works on a claimed run: `execute`, or what knows the other kinds of runs too."""

    def __call__(
        self,
        database: Database,
        settings: Settings,
        claim: Claim,
        *,
        is_stopping: Callable[[], bool],
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None: ...


def train_now(
    database: Database,
    settings: Settings,
    hyperparameters: Hyperparameters,
    *,
    loss: Loss = SQUARED,
    work: Work = execute,
    **hooks: Unpack[Hooks],
) -> RunRow:
    """Queue a run, see it through, and return it finished, whatever its outcome."""
    with database.write() as connection:
        run = queue.enqueue(connection, "cli", hyperparameters, database.now(connection), loss)
    return see_through(database, settings, run, work=work, **hooks)


def see_through(
    database: Database, settings: Settings, run: RunRow, *, work: Work = execute, **hooks: Unpack[Hooks]
) -> RunRow:
    """Wait until a run has ended, and return it.

    This process takes part as one more trainer: it works on the run itself, or, where another trainer holds the
    lease, tells so by `on_wait` and reports the epochs that the other one records.
    """
    return _Foreground(database, settings, work, hooks).see_through(run)


class _Foreground:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        work: Work,
        hooks: Hooks,
    ) -> None:
        self._database = database
        self._settings = settings
        self._work = work
        self._on_epoch: Callable[[Epoch], None] = hooks.get("on_epoch") or (lambda _: None)
        self._is_cancelled: Callable[[], bool] = hooks.get("is_cancelled") or (lambda: False)
        self._on_wait: Callable[[str], None] = hooks.get("on_wait") or (lambda _: None)
        self._told: str | None = None
        self._n_seen = 0
        self._has_worked = False

    def see_through(self, run: RunRow) -> RunRow:
        while run.status not in FINISHED:
            if self._is_cancelled() and not run.is_cancel_requested:
                self._cancel(run.id)
            claim = None if self._is_cancelled() else self._claim()
            if claim:
                self._work_on(claim, run.id)
            else:
                self._watch(run.id)
                time.sleep(self._settings.training.poll_interval.total_seconds())
            with self._database.read() as connection:
                run = queue.get(connection, run.id)
        self._relay(run.id)
        return run

    def _claim(self) -> Claim | None:
        with self._database.write() as connection:
            now = self._database.now(connection)
            return queue.claim(connection, worker_name(), self._settings.training.lease, now)

    def _work_on(self, claim: Claim, run_id: int) -> None:
        is_ours = claim.run_id == run_id
        self._has_worked |= is_ours
        if not is_ours:
            self._tell(f"run {claim.run_id} was queued before this one: training it first")
        self._work(
            self._database,
            self._settings,
            claim,
            is_stopping=self._is_cancelled,
            on_epoch=self._on_epoch if is_ours else None,
        )

    def _watch(self, run_id: int) -> None:
        with self._database.read() as connection:
            running = queue.running(connection)
        if running and running.id == run_id:
            self._tell(f"another trainer ({running.worker}) is working on this run")
        elif running:
            self._tell(f"waiting for run {running.id}, which another trainer ({running.worker}) is working on")
        self._relay(run_id)

    def _relay(self, run_id: int) -> None:
        """Hand on the epochs that another trainer has recorded since the last look."""
        if self._has_worked:
            return
        with self._database.read() as connection:
            epochs = queue.epochs_of(connection, run_id)
        for row in epochs[self._n_seen :]:
            self._on_epoch(_epoch_of(row))
        self._n_seen = len(epochs)

    def _cancel(self, run_id: int) -> None:
        with self._database.write() as connection:
            now = self._database.now(connection)
            if queue.get(connection, run_id).status not in FINISHED:
                queue.request_cancel(connection, run_id, now)

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._on_wait(message)
        self._told = message


def _epoch_of(row: Row[Any]) -> Epoch:
    report = EpochReport(
        row.epoch, row.n_epochs, row.learning_rate, row.train_rmse, row.holdout_rmse, row.ratings_per_second
    )
    return Epoch(row.phase, report, row.finished_at)
