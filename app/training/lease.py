"""The lease of a claimed run: a thread renews it, notices cancellation, and records finished epochs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection

from app.db.engine import DATABASE_IS_AWAY, Database
from app.db.tables import utc_now
from app.engine.sgd.trainer import EpochReport
from app.periodic_thread import PeriodicThread
from app.training import queue
from app.training.models import Phase
from app.training.queue import Claim, Epoch, LeaseLost

log = logging.getLogger(__name__)

HEARTBEAT_INTERVAL = 0.25
"""Seconds; also the longest delay until a cancellation is noticed or an epoch is recorded."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0

T = TypeVar("T")


class RunStopped(Exception):
    """The run ends here without an outcome of its own: cancelled, handed back, or lost."""


class Lease:
    """Holds a claimed run during a `with` block.

    Heartbeats go on while the database is away. The lease counts as held until the database says otherwise; every
    write checks the claim, so a run that was taken over meanwhile stays with its new trainer.
    """

    def __init__(
        self,
        database: Database,
        claim: Claim,
        duration: timedelta,
        *,
        is_stopping: Callable[[], bool],
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.claim = claim
        self.is_cancel_requested = False
        self.is_lost = False
        self._database = database
        self._duration = duration
        self._is_stopping = is_stopping
        self._on_epoch = on_epoch
        self._unrecorded: list[Epoch] = []
        self._writing = threading.Lock()
        self._heartbeats = PeriodicThread(self._heartbeat, HEARTBEAT_INTERVAL, "lease")
        self._is_away = False

    def __enter__(self) -> Self:
        self._heartbeats.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._heartbeats.stop()

    def must_stop(self) -> bool:
        """Whether work on the run should end; the fit asks many times a second."""
        return self.is_cancel_requested or self.is_lost or self._is_stopping()

    def raise_if_stopping(self) -> None:
        """Raises RunStopped if work on the run should end."""
        if self.must_stop():
            raise RunStopped

    def report(self, phase: Phase, report: EpochReport) -> None:
        """Leave a finished epoch for the next heartbeat to record, so that the fit does not wait for the database."""
        epoch = Epoch(phase, report, utc_now())
        self._unrecorded.append(epoch)  # atomic; a lock would let a slow database slow down the fit
        if self._on_epoch:
            self._on_epoch(epoch)

    def write(self, action: Callable[[Connection, datetime], T]) -> T:
        """Run `action` in a transaction that renews the lease and records the epochs so far.

        Raises LeaseLost, with nothing written. Retries while the database is away, see `retry`.
        """
        return self.retry(lambda: self._write(action))

    def retry(self, action: Callable[[], T]) -> T:
        """Run `action`, again and again while the database is away; raises RunStopped if the process is stopping."""
        wait = _FIRST_WAIT
        while True:
            try:
                return action()
            except DATABASE_IS_AWAY as error:
                log.warning("run %d waits %.1f s for the database: %s", self.claim.run_id, wait, error.orig)
            if self._is_stopping() or self.is_lost or self._heartbeats.wait(wait):
                raise RunStopped
            wait = min(2 * wait, _LONGEST_WAIT)

    def _write(self, action: Callable[[Connection, datetime], T]) -> T:
        with self._writing:
            epochs = list(self._unrecorded)
            with self._database.write() as connection:
                now = self._database.now(connection)
                self.is_cancel_requested |= queue.heartbeat(connection, self.claim, self._duration, now)
                queue.record_epochs(connection, self.claim, epochs)
                result = action(connection, now)
            del self._unrecorded[: len(epochs)]
        return result

    def _heartbeat(self) -> None:
        try:
            self._write(lambda _connection, _now: None)
            self._is_away = False
        except LeaseLost:
            self.is_lost = True
            self._heartbeats.request_stop()
        except DATABASE_IS_AWAY as error:
            if not self._is_away:
                log.warning("run %d: no heartbeat, the database is unavailable: %s", self.claim.run_id, error.orig)
            self._is_away = True
