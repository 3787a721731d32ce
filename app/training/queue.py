"""The queue of training runs: enqueue, claim under a lease, heartbeat, finish.

A claim gives the run to one worker and raises `attempt`, the fencing token: only this worker with this attempt may
change the row. A trainer that lost its lease and comes back cannot write anything.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import Connection, Row, Update, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.db.paging import newest
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.sgd.trainer import EpochReport
from app.errors import Conflict, NotFound
from app.registry.models import ModelVersion
from app.training.models import (
    FINISHED,
    KINDS,
    PHASES,
    STATUSES,
    Phase,
    RequestedBy,
    RunKind,
    RunStatus,
    TrainingEpoch,
    TrainingRun,
)

RunRow = Row[Any]
"""The columns of TrainingRun."""

MAX_CRASHES = 3
"""A run fails when this many trainers crashed on it, most likely out of memory; else it would block the queue."""

_OF_REPORT = ("epoch", "n_epochs", "learning_rate", "train_rmse", "holdout_rmse", "ratings_per_second")
_PROCESS = secrets.token_hex(4)  # process ids are reused
_NO_LEASE: dict[str, Any] = {"worker": None, "lease_expires_at": None}
_NO_PROGRESS: dict[str, Any] = {**_NO_LEASE, "n_ratings": None, "trained_through": None, "metrics": {}}


class UnknownRun(NotFound):
    """No run has this id."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"training run {run_id} does not exist")


class FinishedRun(Conflict):
    """A finished run cannot be cancelled."""

    def __init__(self, run_id: int, status: str) -> None:
        super().__init__(f"training run {run_id} has already ended: {status}")


class LeaseLost(Exception):
    """The run has ended or belongs to another trainer: none of the work done for it is recorded."""

    def __init__(self, held: Claim) -> None:
        super().__init__(f"training run {held.run_id} is no longer held by attempt {held.attempt}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed run; `worker` and `attempt` identify the lease holder."""

    run_id: int
    worker: str
    attempt: int
    requested_by: RequestedBy
    hyperparameters: Hyperparameters
    loss: Loss = SQUARED
    kind: RunKind = "train"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A finished epoch of a phase."""

    phase: Phase
    report: EpochReport
    finished_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> Self:
        """The inverse of `columns`."""
        return cls(row.phase, EpochReport(**{name: getattr(row, name) for name in _OF_REPORT}), row.finished_at)

    def columns(self) -> dict[str, Any]:
        """Values of the columns of TrainingEpoch, except run_id."""
        of_report = {name: getattr(self.report, name) for name in _OF_REPORT}
        return {"phase": self.phase, "finished_at": self.finished_at, **of_report}


def worker_name() -> str:
    """Host, process id and a random suffix: unique to this process."""
    return f"{socket.gethostname()[:150]}:{os.getpid()}:{_PROCESS}"


def enqueue(
    connection: Connection,
    requested_by: RequestedBy,
    hyperparameters: Hyperparameters,
    now: datetime,
    loss: Loss = SQUARED,
    kind: RunKind = "train",
) -> RunRow:
    """Queue a run. The policy has at most one run in the queue: enqueueing again returns that one."""
    values = {
        "kind": kind,
        "status": "queued",
        "requested_by": requested_by,
        "hyperparameters": hyperparameters.to_dict(),
        "loss": loss.to_dict(),
        "created_at": now,
        "is_cancel_requested": False,
        "attempt": 0,
        "n_crashes": 0,
        **_NO_PROGRESS,
    }
    run_id: int | None = None
    while run_id is None:
        try:
            with connection.begin_nested():
                run_id = connection.execute(insert(TrainingRun).values(values).returning(TrainingRun.id)).scalar_one()
        except IntegrityError:  # the policy has a run in the queue: return it, unless it was claimed meanwhile
            queued = (TrainingRun.status == "queued", TrainingRun.requested_by == "policy")
            run_id = connection.execute(select(TrainingRun.id).where(*queued)).scalar_one_or_none()
    return get(connection, run_id)


def claim(connection: Connection, worker: str, lease: timedelta, now: datetime) -> Claim | None:
    """Take over the run whose lease expired, else the oldest queued one; None while another one is running.

    Trainings come before searches, which take long.
    """
    _end_expired(connection, now)
    values = {"status": "running", "worker": worker, "lease_expires_at": now + lease, "started_at": now}
    expired = update(TrainingRun).where(*_has_expired(now)).values(n_crashes=TrainingRun.n_crashes + 1)
    row = _claim(connection, expired, values) or _take_queued(connection, values)
    if row is None:
        return None
    connection.execute(delete(TrainingEpoch).where(TrainingEpoch.run_id == row.id))
    return Claim(
        run_id=row.id,
        worker=worker,
        attempt=row.attempt,
        requested_by=row.requested_by,
        hyperparameters=Hyperparameters.from_dict(row.hyperparameters),
        loss=loss_of(row),
        kind=row.kind,
    )


def loss_of(row: RunRow) -> Loss:
    """The loss that a run minimizes."""
    return Loss.from_dict(row.loss) if row.loss else SQUARED


def is_claimable(connection: Connection, now: datetime) -> bool:
    """Whether `claim` would probably return a run; reads only, so it does not block writers."""
    is_expired = and_(*_has_expired(now))
    is_running = select(TrainingRun.id).where(TrainingRun.status == "running").exists()
    is_waiting = (TrainingRun.status == "queued") & ~is_running
    return connection.execute(select(TrainingRun.id).where(is_expired | is_waiting).limit(1)).first() is not None


def heartbeat(connection: Connection, held: Claim, lease: timedelta, now: datetime) -> bool:
    """Renew the lease and return whether the run is to be cancelled; raises LeaseLost.

    An expired lease can still be renewed until another trainer takes the run over.
    """
    renewal = _of(held).values(lease_expires_at=now + lease).returning(TrainingRun.is_cancel_requested)
    is_cancel_requested = connection.execute(renewal).scalar_one_or_none()
    if is_cancel_requested is None:
        raise LeaseLost(held)
    return bool(is_cancel_requested)


def record(connection: Connection, held: Claim, **columns: Any) -> None:
    """Set columns of the running run; raises LeaseLost."""
    if connection.execute(_of(held).values(**columns)).rowcount == 0:
        raise LeaseLost(held)


def record_epochs(connection: Connection, held: Claim, epochs: Sequence[Epoch]) -> None:
    """Insert epochs; call it in the transaction that renewed the lease.

    Recording the same epochs again changes nothing, so a caller may retry after a lost connection. A phase that starts
    over replaces its own epochs and those of later phases.
    """
    if not epochs:
        return
    epochs = _without_restarted(epochs)
    first = epochs[0]
    later = TrainingEpoch.phase.in_(PHASES[PHASES.index(first.phase) + 1 :])
    replaced = later | ((TrainingEpoch.phase == first.phase) & (TrainingEpoch.epoch >= first.report.epoch))
    connection.execute(delete(TrainingEpoch).where(TrainingEpoch.run_id == held.run_id, replaced))
    connection.execute(insert(TrainingEpoch), [{"run_id": held.run_id, **epoch.columns()} for epoch in epochs])


def _without_restarted(epochs: Sequence[Epoch]) -> list[Epoch]:
    """Drops the epochs before a phase started over."""
    remaining: list[Epoch] = []
    for epoch in epochs:
        while remaining and _position(remaining[-1]) >= _position(epoch):
            remaining.pop()
        remaining.append(epoch)
    return remaining


def _position(epoch: Epoch) -> tuple[int, int]:
    return PHASES.index(epoch.phase), epoch.report.epoch


def finish(connection: Connection, held: Claim, status: RunStatus, now: datetime, **columns: Any) -> None:
    """End the run; raises LeaseLost, and then the transaction must be rolled back."""
    record(connection, held, status=status, finished_at=now, **_NO_LEASE, **columns)


def hand_back(connection: Connection, held: Claim, now: datetime) -> None:
    """Put the run back into the queue as if it had never been started; raises LeaseLost.

    A run of the policy is cancelled instead if the policy has queued another one meanwhile.
    """
    try:
        with connection.begin_nested():
            record(connection, held, status="queued", started_at=None, **_NO_PROGRESS)
    except IntegrityError:
        finish(connection, held, "cancelled", now, error="abandoned at shutdown, because another run is already queued")
    connection.execute(delete(TrainingEpoch).where(TrainingEpoch.run_id == held.run_id))


def request_cancel(connection: Connection, run_id: int, now: datetime) -> RunRow:
    """Cancel a queued run at once, or ask the trainer of a running one to stop; raises UnknownRun or FinishedRun."""
    of_run = update(TrainingRun).where(TrainingRun.id == run_id)
    at_once = of_run.where(TrainingRun.status == "queued").values(
        status="cancelled", finished_at=now, is_cancel_requested=True
    )
    if connection.execute(at_once).rowcount == 0:
        request = of_run.where(TrainingRun.status == "running").values(is_cancel_requested=True)
        if connection.execute(request).rowcount == 0:
            raise FinishedRun(run_id, get(connection, run_id).status)
    return get(connection, run_id)


def get(connection: Connection, run_id: int) -> RunRow:
    """Raises UnknownRun."""
    row = connection.execute(select(TrainingRun.__table__).where(TrainingRun.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    return row


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[RunRow]:
    """At most `limit` runs with ids below `before`, newest first."""
    return newest(connection, select(TrainingRun.__table__), TrainingRun.id, limit, before)


def epochs_of(connection: Connection, run_id: int, after: Mapping[Phase, int] | None = None) -> list[Row[Any]]:
    """The recorded epochs of a run in chronological order; of each phase only those after the number in `after`."""
    last = after or {}
    is_new = or_(*((TrainingEpoch.phase == phase) & (TrainingEpoch.epoch > last.get(phase, 0)) for phase in PHASES))
    in_order = case({phase: position for position, phase in enumerate(PHASES)}, value=TrainingEpoch.phase)
    statement = select(TrainingEpoch.__table__).where(TrainingEpoch.run_id == run_id, is_new)
    return list(connection.execute(statement.order_by(in_order, TrainingEpoch.epoch)))


def last_epochs_of(connection: Connection, run_id: int) -> list[Row[Any]]:
    """The last recorded epoch of each phase that has one: enough to compute the progress."""
    newest_first = select(TrainingEpoch.__table__).order_by(TrainingEpoch.epoch.desc()).limit(1)
    last = (newest_first.where(TrainingEpoch.run_id == run_id, TrainingEpoch.phase == phase) for phase in PHASES)
    return [row for statement in last for row in connection.execute(statement)]


def prune(connection: Connection, keep: int) -> int:
    """Delete all finished runs except the newest `keep`, with their epochs and trials; returns how many.

    Runs of listed versions stay, and so does the last search whose winner was published: later runs use its values.
    """
    newest = select(TrainingRun.id).order_by(TrainingRun.id.desc()).limit(keep)
    is_winner = (TrainingRun.kind == "search", TrainingRun.status == "succeeded", TrainingRun.version.is_not(None))
    last_winner = select(func.max(TrainingRun.id)).where(*is_winner).scalar_subquery()
    of_versions = select(ModelVersion.run_id).where(ModelVersion.run_id.is_not(None))
    old = (
        TrainingRun.status.in_(FINISHED),
        TrainingRun.id.not_in(newest),
        TrainingRun.id.not_in(of_versions),
        TrainingRun.id != func.coalesce(last_winner, 0),
    )
    return connection.execute(delete(TrainingRun).where(*old)).rowcount


def running(connection: Connection) -> RunRow | None:
    """The running run, if any."""
    return connection.execute(select(TrainingRun.__table__).where(TrainingRun.status == "running")).one_or_none()


def last_published(connection: Connection) -> RunRow | None:
    """The latest run that published a version, if any."""
    published = select(TrainingRun.__table__).where(TrainingRun.status == "succeeded", TrainingRun.version.is_not(None))
    return connection.execute(published.order_by(TrainingRun.id.desc()).limit(1)).one_or_none()


def count_by_status(connection: Connection) -> list[tuple[str, str, int]]:
    """(kind, status, number of runs) of every combination, also of those without runs."""
    kind, status = TrainingRun.kind, TrainingRun.status
    rows = connection.execute(select(kind, status, func.count()).group_by(kind, status))
    counts = {(row[0], row[1]): row[2] for row in rows}
    return [(kind, status, counts.get((kind, status), 0)) for kind in KINDS for status in STATUSES]


def is_training_queued(connection: Connection) -> bool:
    """Whether a training is queued: a search lets it go first between two trials."""
    waiting = select(TrainingRun.id).where(TrainingRun.status == "queued", TrainingRun.kind == "train")
    return connection.execute(waiting.limit(1)).first() is not None


def _take_queued(connection: Connection, values: dict[str, Any]) -> RunRow | None:
    is_queued = TrainingRun.status == "queued"
    is_search = TrainingRun.kind == "search"
    oldest = select(TrainingRun.id).where(is_queued).order_by(is_search, TrainingRun.id).limit(1).scalar_subquery()
    try:
        with connection.begin_nested():
            return _claim(connection, update(TrainingRun).where(TrainingRun.id == oldest, is_queued), values)
    except IntegrityError:  # the index allows one running run: another trainer has it
        return None


def _claim(connection: Connection, update_of_run: Update, values: dict[str, Any]) -> RunRow | None:
    claiming = update_of_run.values(**_NO_PROGRESS | values, attempt=TrainingRun.attempt + 1)
    return connection.execute(claiming.returning(*TrainingRun.__table__.columns)).one_or_none()


def _end_expired(connection: Connection, now: datetime) -> None:
    """End the runs of crashed trainers that are not to be taken over: to be cancelled, or at their last crash.

    Handing a run back does not count as a crash.
    """
    ended = update(TrainingRun).where(*_has_expired(now)).values(finished_at=now, **_NO_LEASE)
    connection.execute(ended.where(TrainingRun.is_cancel_requested).values(status="cancelled"))
    error = f"the trainer crashed {MAX_CRASHES} times while working on it"
    failed = ended.values(status="failed", n_crashes=MAX_CRASHES, error=error)
    connection.execute(failed.where(TrainingRun.n_crashes >= MAX_CRASHES - 1))


def _has_expired(now: datetime) -> tuple[Any, ...]:
    return (TrainingRun.status == "running", TrainingRun.lease_expires_at < now)


def _of(held: Claim) -> Update:
    is_held = (
        TrainingRun.id == held.run_id,
        TrainingRun.status == "running",
        TrainingRun.worker == held.worker,
        TrainingRun.attempt == held.attempt,
    )
    return update(TrainingRun).where(*is_held)
