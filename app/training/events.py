"""A run as a stream of server-sent events (WHATWG HTML, section 9.2): epochs as they end, and changes of status.

Epoch events carry an id, `attempt.number`. A client that comes back with it in Last-Event-ID gets what it has
missed; after a take-over the epochs begin anew, and so does the stream. Status events carry none: the newest
status is sent first whenever somebody connects.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Row

from app.db.engine import Database
from app.training import queue
from app.training.models import FINISHED, PHASES, Phase
from app.training.queue import RunRow, UnknownRun
from app.training.schemas import EpochOut, TrainingRunOut

LOOK_INTERVAL = 0.25
_EVENT_ID = re.compile(r"(?P<attempt>[0-9]{1,9})\.(?P<number>[0-9]{1,9})")
KEEP_ALIVE = 10.0
"""Seconds of silence after which a comment is sent, so that proxies keep the connection open."""


@dataclass(frozen=True, slots=True)
class Look:
    """A run, the last epoch of each phase, and the epochs that are news to somebody."""

    run: RunRow
    last: list[Row[Any]]
    unseen: list[Row[Any]]


@dataclass(slots=True)
class Reader:
    """What one client has seen of a run."""

    attempt: int = -1
    n_epochs: int = 0
    told: tuple[Any, ...] | None = None

    @classmethod
    def after(cls, last_event_id: str | None) -> Reader:
        """Goes on after an event id; text that is none begins at the beginning."""
        found = _EVENT_ID.fullmatch(last_event_id or "")
        return cls(int(found["attempt"]), int(found["number"])) if found else cls()

    def look(self, connection: Connection, run_id: int) -> Look:
        """What the database holds that the client has not seen; raises UnknownRun."""
        run = queue.get(connection, run_id)  # before the epochs: of a run that has ended, none may be missing
        last = queue.last_epochs_of(connection, run_id)
        counts: dict[Phase, int] = {row.phase: row.epoch for row in last}
        if run.attempt != self.attempt or sum(counts.values()) < self.n_epochs:
            self.attempt, self.n_epochs = run.attempt, 0
        return Look(run, last, queue.epochs_of(connection, run_id, after=self._seen(counts)))

    def _seen(self, counts: Mapping[Phase, int]) -> dict[Phase, int]:
        """How many epochs of each phase are no news, where there are so many of each."""
        seen: dict[Phase, int] = {}
        for phase in PHASES:
            seen[phase] = min(self.n_epochs - sum(seen.values()), counts.get(phase, 0))
        return seen

    def news(self, look: Look) -> Iterator[str]:
        """Events for what happened since the last look: epochs first, then the status if it changed."""
        run = look.run
        for epoch in look.unseen:
            self.n_epochs += 1
            yield _event("epoch", EpochOut.of(epoch).model_dump_json(), f"{run.attempt}.{self.n_epochs}")
        status = (run.status, run.attempt, run.is_cancel_requested, run.version)
        if status != self.told:
            yield _event("status", TrainingRunOut.of(run, look.last).model_dump_json(by_alias=True, exclude_unset=True))
        self.told = status


async def stream(
    database: Database, run_id: int, reader: Reader, is_stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    """Events until the run has ended. Each look at the database is a short visit to a thread."""
    spoke_at = time.monotonic()
    while not is_stopping():
        try:
            look = await anyio.to_thread.run_sync(_look, database, run_id, reader)
        except UnknownRun:
            return
        for event in reader.news(look):
            yield event
            spoke_at = time.monotonic()
        if look.run.status in FINISHED:
            return
        if time.monotonic() - spoke_at >= KEEP_ALIVE:
            yield ": still here\n\n"
            spoke_at = time.monotonic()
        await anyio.sleep(LOOK_INTERVAL)


def _look(database: Database, run_id: int, reader: Reader) -> Look:
    with database.read() as connection:
        return reader.look(connection, run_id)


def _event(name: str, data: str, event_id: str | None = None) -> str:
    id_line = f"id: {event_id}\n" if event_id else ""
    return f"{id_line}event: {name}\ndata: {data}\n\n"
