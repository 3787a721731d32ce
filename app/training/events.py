"""A run as a stream of server-sent events (WHATWG HTML, section 9.2): finished epochs, and changes of status.

Epoch events have the id `attempt.number`. A client that reconnects with it in Last-Event-ID gets the events that it
missed; after a take-over the run starts over, and so do its epoch events. Status events have no id: the current status
is sent on every connect.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from app.db.engine import Database
from app.training import queue
from app.training.models import FINISHED, PHASES, Phase
from app.training.queue import UnknownRun
from app.training.schemas import EpochOut, TrainingRunOut

POLL_INTERVAL = 0.25
KEEP_ALIVE = 10.0
"""Seconds without events after which a comment is sent, so that proxies keep the connection open."""
_EVENT_ID = re.compile(r"(?P<attempt>[0-9]{1,9})\.(?P<number>[0-9]{1,9})")


@dataclass(slots=True)
class EventCursor:
    """What one client has received of a run."""

    attempt: int = -1
    n_epochs: int = 0
    last_status: tuple[Any, ...] | None = None

    @classmethod
    def after(cls, last_event_id: str | None) -> EventCursor:
        """Continues after an event id; anything that is no such id starts from the first event."""
        match = _EVENT_ID.fullmatch(last_event_id or "")
        return cls(int(match["attempt"]), int(match["number"])) if match else cls()

    def read(self, connection: Connection, run_id: int) -> tuple[list[str], bool]:
        """The events that the client has not received, and whether the run has finished; raises UnknownRun.

        An event for each new epoch, then one for the status if it changed.
        """
        run = queue.get(connection, run_id)  # before the epochs: when it has finished, all of them are recorded
        last_epochs = queue.last_epochs_of(connection, run_id)
        counts: dict[Phase, int] = {row.phase: row.epoch for row in last_epochs}
        if run.attempt != self.attempt or sum(counts.values()) < self.n_epochs:
            self.attempt, self.n_epochs = run.attempt, 0
        events = []
        for epoch in queue.epochs_of(connection, run_id, after=self._received(counts)):
            self.n_epochs += 1
            shown = EpochOut.model_validate(epoch).model_dump_json()
            events.append(_event("epoch", shown, f"{run.attempt}.{self.n_epochs}"))
        status = (run.status, run.attempt, run.is_cancel_requested, run.version)
        if status != self.last_status:
            shown = TrainingRunOut.of(run, last_epochs).model_dump_json(by_alias=True, exclude_unset=True)
            events.append(_event("status", shown))
        self.last_status = status
        return events, run.status in FINISHED

    def _received(self, counts: Mapping[Phase, int]) -> dict[Phase, int]:
        """How many epochs of each phase the client has, if it received the first `n_epochs` of all."""
        received: dict[Phase, int] = {}
        for phase in PHASES:
            received[phase] = min(self.n_epochs - sum(received.values()), counts.get(phase, 0))
        return received


async def stream(
    database: Database, run_id: int, cursor: EventCursor, is_stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    """Events until the run has finished. Only the database is read in a thread."""
    sent_at = time.monotonic()
    while not is_stopping():
        try:
            unsent, is_finished = await anyio.to_thread.run_sync(_read, database, run_id, cursor)
        except UnknownRun:
            return
        if not unsent and time.monotonic() - sent_at >= KEEP_ALIVE:
            unsent = [": keep-alive\n\n"]
        for event in unsent:
            yield event
            sent_at = time.monotonic()
        if is_finished:
            return
        await anyio.sleep(POLL_INTERVAL)


def _read(database: Database, run_id: int, cursor: EventCursor) -> tuple[list[str], bool]:
    with database.read() as connection:
        return cursor.read(connection, run_id)


def _event(name: str, data: str, event_id: str | None = None) -> str:
    id_line = f"id: {event_id}\n" if event_id else ""
    return f"{id_line}event: {name}\ndata: {data}\n\n"
