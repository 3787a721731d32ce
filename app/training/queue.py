"""Training runs as rows: asked for, claimed under a lease, kept alive, and brought to an end.

A claim gives the run to one worker and raises `attempt`; from then on only that worker with that attempt may
change the row. So a trainer that was believed dead, and comes back, finds that nothing it does counts any more.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, CursorResult, Row, Update, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

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

MAX_DEATHS = 3
"""Trainers that may die of one run, by memory above all, before it is given up: nothing else would be trained."""

_PROCESS = secrets.token_hex(4)  # process numbers come again
_LET_GO: dict[str, Any] = {"worker": None, "lease_expires_at": None}
_FRESH: dict[str, Any] = {**_LET_GO, "n_ratings": None, "trained_through": None, "metrics": {}}


class UnknownRun(NotFound):
    """No run has this number."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"training run {run_id} does not exist")
        self.run_id = run_id


class FinishedRun(Conflict):
    """A run that has ended cannot be cancelled."""

    def __init__(self, run_id: int, status: str) -> None:
        super().__init__(f"training run {run_id} has already ended: {status}")
        self.run_id = run_id
        self.status = status


class LeaseLost(Exception):
    """The run belongs to somebody else by now, or has ended: nothing that was done for it counts."""

    def __init__(self, run_id: int, attempt: int) -> None:
        super().__init__(f"training run {run_id} is no longer held by its attempt {attempt}")
        self.run_id = run_id
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is ours until the lease runs out; `worker` and `attempt` are the proof."""

    run_id: int
    worker: str
    attempt: int
    requested_by: RequestedBy
    hyperparameters: Hyperparameters
    loss: Loss = SQUARED
    kind: RunKind = "train"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A report of an epoch, with the phase it belongs to and the moment it ended."""

    phase: Phase
    report: EpochReport
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a trainer learns when it renews its lease."""

    is_ours: bool
    is_cancel_requested: bool


def worker_name() -> str:
    """Who holds a lease, for people and logs; unique to this process."""
    return f"{socket.gethostname()[:150]}:{os.getpid()}:{_PROCESS}"


def enqueue(
    connection: Connection,
    requested_by: RequestedBy,
    hyperparameters: Hyperparameters,
    now: datetime,
    loss: Loss = SQUARED,
    kind: RunKind = "train",
) -> RunRow:
    """Ask for a run. The policy never has more than one in the queue: asking again gives the one that waits."""
    values = {
        "kind": kind,
        "status": "queued",
        "requested_by": requested_by,
        "hyperparameters": hyperparameters.to_dict(),
        "loss": loss.to_dict(),
        "created_at": now,
        "is_cancel_requested": False,
        "attempt": 0,
        "n_deaths": 0,
        **_FRESH,
    }
    run_id: int | None = None
    while run_id is None:
        try:
            with connection.begin_nested():
                run_id = connection.execute(insert(TrainingRun).values(values).returning(TrainingRun.id)).scalar_one()
        except IntegrityError:  # the index lets the policy queue one run at a time: that one, unless it just left
            run_id = connection.execute(_queued_by_policy()).scalar_one_or_none()
    return get(connection, run_id)


def claim(connection: Connection, worker: str, lease: timedelta, now: datetime) -> Claim | None:
    """Take the run whose trainer fell silent, else the oldest that waits; None while another one is running.

    Trainings come before searches, which take long and can wait.
    """
    _end_abandoned_cancels(connection, now)
    _end_deadly(connection, now)
    values = {"status": "running", "worker": worker, "lease_expires_at": now + lease, "started_at": now}
    row = _take_over(connection, values, now) or _take_queued(connection, values)
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
    """What a run minimises."""
    return Loss.from_dict(row.loss) if row.loss else SQUARED


def is_claimable(connection: Connection, now: datetime) -> bool:
    """Whether `claim` would probably find something: a look that writers need not wait for."""
    silent = and_(*_is_silent(now))
    is_running = select(TrainingRun.id).where(TrainingRun.status == "running").exists()
    waiting = (TrainingRun.status == "queued") & ~is_running
    return connection.execute(select(TrainingRun.id).where(silent | waiting).limit(1)).first() is not None


def heartbeat(connection: Connection, held: Claim, lease: timedelta, now: datetime) -> Heartbeat:
    """Renew the lease, if it is still ours. A lease that ran out is ours until somebody takes the run over."""
    renewed = connection.execute(
        _of(held).values(lease_expires_at=now + lease).returning(TrainingRun.is_cancel_requested)
    ).scalar_one_or_none()
    return Heartbeat(is_ours=renewed is not None, is_cancel_requested=bool(renewed))


def note(connection: Connection, held: Claim, **facts: Any) -> None:
    """Write down what is known of a running run (n_ratings, trained_through, metrics); raises LeaseLost."""
    _expect_ours(connection.execute(_of(held).values(**facts)), held)


def record_epochs(connection: Connection, held: Claim, epochs: Sequence[Epoch]) -> None:
    """Write epochs down; call it in a transaction that has found the lease to be ours.

    Writing them again changes nothing, for a caller who lost the connection and cannot know whether it was done. A
    phase that begins again replaces what it did before, and what came after.
    """
    if not epochs:
        return
    epochs = _without_repeated(epochs)
    first = epochs[0]
    later = TrainingEpoch.phase.in_(PHASES[PHASES.index(first.phase) + 1 :])
    again = later | ((TrainingEpoch.phase == first.phase) & (TrainingEpoch.epoch >= first.report.epoch))
    connection.execute(delete(TrainingEpoch).where(TrainingEpoch.run_id == held.run_id, again))
    connection.execute(insert(TrainingEpoch), [_epoch_values(held.run_id, epoch) for epoch in epochs])


def _without_repeated(epochs: Sequence[Epoch]) -> list[Epoch]:
    """Where a phase began again, only what was done since."""
    kept: list[Epoch] = []
    for epoch in epochs:
        while kept and _place(kept[-1]) >= _place(epoch):
            kept.pop()
        kept.append(epoch)
    return kept


def _place(epoch: Epoch) -> tuple[int, int]:
    return PHASES.index(epoch.phase), epoch.report.epoch


def finish(connection: Connection, held: Claim, status: RunStatus, now: datetime, **facts: Any) -> None:
    """End the run; raises LeaseLost where it is not ours to end, and then the transaction must be undone."""
    _expect_ours(connection.execute(_of(held).values(status=status, finished_at=now, **_LET_GO, **facts)), held)


def hand_back(connection: Connection, held: Claim, now: datetime) -> None:
    """Put the run back into the queue, as if it had never been started; raises LeaseLost.

    A run of the policy gives way to another one that is queued already.
    """
    connection.execute(delete(TrainingEpoch).where(TrainingEpoch.run_id == held.run_id, _is_ours_now(held)))
    try:
        with connection.begin_nested():
            changed = connection.execute(_of(held).values(status="queued", started_at=None, **_FRESH))
    except IntegrityError:
        finish(connection, held, "cancelled", now, error="given up at shutdown; another run is queued already")
        return
    _expect_ours(changed, held)


def request_cancel(connection: Connection, run_id: int, now: datetime) -> RunRow:
    """Cancel a queued run at once, or ask the trainer of a running one to stop; raises UnknownRun or FinishedRun."""
    of_run = update(TrainingRun).where(TrainingRun.id == run_id)
    at_once = of_run.where(TrainingRun.status == "queued").values(
        status="cancelled", finished_at=now, is_cancel_requested=True
    )
    if connection.execute(at_once).rowcount == 0:
        asked = of_run.where(TrainingRun.status == "running").values(is_cancel_requested=True)
        if connection.execute(asked).rowcount == 0:
            raise FinishedRun(run_id, get(connection, run_id).status)
    return get(connection, run_id)


def get(connection: Connection, run_id: int) -> RunRow:
    """Raises UnknownRun."""
    row = connection.execute(select(TrainingRun.__table__).where(TrainingRun.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRun(run_id)
    return row


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[RunRow]:
    """Runs from the newest to the oldest, at most `limit`, all older than `before`."""
    statement = select(TrainingRun.__table__).order_by(TrainingRun.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(TrainingRun.id < before)
    return list(connection.execute(statement))


def epochs_of(connection: Connection, run_id: int, after: Mapping[Phase, int] | None = None) -> list[Row[Any]]:
    """The recorded epochs of a run in the order in which they happened; `after` leaves out what is known by phase."""
    seen = after or {}
    is_new = or_(*((TrainingEpoch.phase == phase) & (TrainingEpoch.epoch > seen.get(phase, 0)) for phase in PHASES))
    return list(
        connection.execute(
            select(TrainingEpoch.__table__)
            .where(TrainingEpoch.run_id == run_id, is_new)
            .order_by(case({phase: place for place, phase in enumerate(PHASES)}, value=TrainingEpoch.phase))
            .order_by(TrainingEpoch.epoch)
        )
    )


def last_epochs_of(connection: Connection, run_id: int) -> list[Row[Any]]:
    """The last recorded epoch of each phase that has one: how far a run is, without reading it all."""
    of_run = select(TrainingEpoch.__table__).where(TrainingEpoch.run_id == run_id)
    found = (
        connection.execute(of_run.where(TrainingEpoch.phase == phase).order_by(TrainingEpoch.epoch.desc()).limit(1))
        for phase in PHASES
    )
    return [row for result in found for row in result]


def prune(connection: Connection, keep: int) -> int:
    """Delete finished runs but the newest `keep`, with their epochs and trials; returns how many.

    Runs behind the listed versions stay, and so does the last search whose winner was published: later runs keep to it.
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
    """The one run that is being worked on, if any."""
    return connection.execute(select(TrainingRun.__table__).where(TrainingRun.status == "running")).one_or_none()


def last_published(connection: Connection) -> RunRow | None:
    """The latest run that published a version, if any has."""
    published = select(TrainingRun.__table__).where(TrainingRun.status == "succeeded", TrainingRun.version.is_not(None))
    return connection.execute(published.order_by(TrainingRun.id.desc()).limit(1)).one_or_none()


def count_by_status(connection: Connection) -> list[tuple[str, str, int]]:
    """Kind, status, and how many runs there are of them; those without any are counted as zero."""
    kind, status = TrainingRun.kind, TrainingRun.status
    found = connection.execute(select(kind, status, func.count()).group_by(kind, status))
    counts = {(of_kind, of_status): n for of_kind, of_status, n in found}
    return [(kind, status, counts.get((kind, status), 0)) for kind in KINDS for status in STATUSES]


def is_training_queued(connection: Connection) -> bool:
    """Whether a training waits: a search makes room for it between two trials."""
    waiting = select(TrainingRun.id).where(TrainingRun.status == "queued", TrainingRun.kind == "train")
    return connection.execute(waiting.limit(1)).first() is not None


def count_open(connection: Connection) -> int:
    """Runs that are queued or running."""
    statement = select(func.count()).select_from(TrainingRun).where(TrainingRun.status.not_in(FINISHED))
    return connection.execute(statement).scalar_one()


def _take_over(connection: Connection, values: dict[str, Any], now: datetime) -> RunRow | None:
    silent = update(TrainingRun).where(*_is_silent(now))
    return _first(connection.execute(_claiming(silent, values | {"n_deaths": TrainingRun.n_deaths + 1})))


def _take_queued(connection: Connection, values: dict[str, Any]) -> RunRow | None:
    is_queued = TrainingRun.status == "queued"
    is_search = TrainingRun.kind == "search"
    oldest = select(TrainingRun.id).where(is_queued).order_by(is_search, TrainingRun.id).limit(1).scalar_subquery()
    waiting = update(TrainingRun).where(TrainingRun.id == oldest, TrainingRun.status == "queued")
    try:
        with connection.begin_nested():
            return _first(connection.execute(_claiming(waiting, values)))
    except IntegrityError:  # the index allows one running run: another trainer has it
        return None


def _claiming(which: Update, values: dict[str, Any]) -> Any:
    fresh = _FRESH | values
    return which.values(**fresh, attempt=TrainingRun.attempt + 1).returning(
        *(TrainingRun.id, TrainingRun.attempt, TrainingRun.requested_by, TrainingRun.hyperparameters, TrainingRun.loss),
        TrainingRun.kind,
    )


def _first(result: CursorResult[Any]) -> RunRow | None:
    return result.one_or_none()


def _end_abandoned_cancels(connection: Connection, now: datetime) -> None:
    """A run that was to be cancelled when its trainer died is cancelled, not taken over."""
    connection.execute(
        update(TrainingRun)
        .where(*_is_silent(now), TrainingRun.is_cancel_requested)
        .values(status="cancelled", finished_at=now, **_LET_GO)
    )


def _end_deadly(connection: Connection, now: datetime) -> None:
    """A run that has cost too many trainers their life has failed; being handed back does not count."""
    died = {"n_deaths": MAX_DEATHS, "error": f"the trainer died {MAX_DEATHS} times while working on it"}
    connection.execute(
        update(TrainingRun)
        .where(*_is_silent(now), TrainingRun.n_deaths >= MAX_DEATHS - 1)
        .values(status="failed", finished_at=now, **died, **_LET_GO)
    )


def _is_silent(now: datetime) -> tuple[Any, ...]:
    return (TrainingRun.status == "running", TrainingRun.lease_expires_at < now)


def _queued_by_policy() -> Any:
    return select(TrainingRun.id).where(TrainingRun.status == "queued", TrainingRun.requested_by == "policy")


def _conditions(held: Claim) -> tuple[Any, ...]:
    return (
        TrainingRun.id == held.run_id,
        TrainingRun.status == "running",
        TrainingRun.worker == held.worker,
        TrainingRun.attempt == held.attempt,
    )


def _of(held: Claim) -> Update:
    return update(TrainingRun).where(*_conditions(held))


def _is_ours_now(held: Claim) -> Any:
    return select(TrainingRun.id).where(*_conditions(held)).exists()


def _expect_ours(result: CursorResult[Any], held: Claim) -> None:
    if result.rowcount == 0:
        raise LeaseLost(held.run_id, held.attempt)


def _epoch_values(run_id: int, epoch: Epoch) -> dict[str, Any]:
    report = epoch.report
    return {
        "run_id": run_id,
        "phase": epoch.phase,
        "epoch": report.epoch,
        "n_epochs": report.n_epochs,
        "learning_rate": report.learning_rate,
        "train_rmse": report.train_rmse,
        "holdout_rmse": report.holdout_rmse,
        "ratings_per_second": report.ratings_per_second,
        "finished_at": epoch.finished_at,
    }
