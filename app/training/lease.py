"""The hold on a claimed run: a thread renews it, hears of cancellation, and writes finished epochs down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Connection

from app.db.engine import DATABASE_IS_AWAY as DATABASE_IS_AWAY
from app.db.engine import Database
from app.db.tables import utc_now
from app.engine.sgd.trainer import EpochReport
from app.training import queue
from app.training.models import Phase
from app.training.queue import Claim, Epoch, LeaseLost

log = logging.getLogger(__name__)

BEAT = 0.25
"""Seconds between heartbeats, and so the longest that a cancellation or an epoch waits to be seen."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0

T = TypeVar("T")


class RunStopped(Exception):
    """The run must end here, without an outcome of its own: cancelled, to be handed back, or lost."""


class Lease:
    """Holds a claimed run while a `with` block works on it.

    The heartbeat goes on while the database is away, and the lease counts as ours until the database says that it
    is not: what another trainer may have taken over meanwhile, it keeps, for every write here proves the claim.
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
        self._epochs: list[Epoch] = []
        self._settling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def must_stop(self) -> bool:
        """Whether work on the run should end; asked by the fit many times a second."""
        return self.is_cancel_requested or self.is_lost or self._is_stopping()

    def check(self) -> None:
        """Raises RunStopped where work on the run should end."""
        if self.must_stop():
            raise RunStopped

    def report(self, phase: Phase, report: EpochReport) -> None:
        """Keep a finished epoch for the next heartbeat to write, so that the fit does not wait for the database."""
        epoch = Epoch(phase, report, utc_now())
        self._epochs.append(epoch)  # atomic, and no lock: a slow database must not slow the fit down
        if self._on_epoch:
            self._on_epoch(epoch)

    def settle(self, write: Callable[[Connection, datetime], T]) -> T:
        """Do `write` in a transaction that also writes the epochs kept so far; raises LeaseLost, nothing written.

        While the database is away this waits and tries again, until the process is to stop.
        """
        return self.patiently(lambda: self._settle(write))

    def patiently(self, action: Callable[[], T]) -> T:
        """Do `action`, again and again while the database is away; raises RunStopped when there is no time for that."""
        wait = _FIRST_WAIT
        while True:
            try:
                return action()
            except DATABASE_IS_AWAY as error:
                log.warning("run %d waits %.1f s for the database: %s", self.claim.run_id, wait, error.orig)
            if self._is_stopping() or self.is_lost or self._ended.wait(wait):
                raise RunStopped
            wait = min(2 * wait, _LONGEST_WAIT)

    def _settle(self, write: Callable[[Connection, datetime], T]) -> T:
        with self._settling:
            epochs = list(self._epochs)
            with self._database.write() as connection:
                now = self._database.now(connection)
                self._renew_and_record(connection, epochs, now)
                result = write(connection, now)
            del self._epochs[: len(epochs)]
        return result

    def _beat(self) -> None:
        is_away = False
        while not self._ended.wait(BEAT) and not self.is_lost:
            try:
                self._settle(lambda _connection, _now: None)
                is_away = False
            except LeaseLost:
                self.is_lost = True
            except DATABASE_IS_AWAY as error:
                if not is_away:
                    log.warning("run %d: no heartbeat, the database is away: %s", self.claim.run_id, error.orig)
                is_away = True

    def _renew_and_record(self, connection: Connection, epochs: list[Epoch], now: datetime) -> None:
        beat = queue.heartbeat(connection, self.claim, self._duration, now)
        if not beat.is_ours:
            raise LeaseLost(self.claim.run_id, self.claim.attempt)
        self.is_cancel_requested |= beat.is_cancel_requested
        queue.record_epochs(connection, self.claim, epochs)
