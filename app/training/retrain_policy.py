"""When the trainer starts a run by itself: bursts of ratings are learned in one run, and none waits too long."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, func, select

from app.db.revisions import revision
from app.ratings import store
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion
from app.settings import RetrainPolicy
from app.training.models import TrainingRun

log = logging.getLogger(__name__)

_CONCLUSIVE: tuple[str, ...] = ("succeeded", "rejected", "cancelled")
"""After these outcomes the same ratings are not tried again."""
_MAX_DOUBLINGS = 20
VERIFY_EVERY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class RetrainState:
    """What the decision depends on."""

    n_changes: int
    """Ratings changed or removed since the last run with a conclusive outcome."""
    changed_since: datetime | None
    """Not later than the oldest of these changes, as far as is known."""
    last_started_at: datetime | None
    n_failures: int
    """Failed runs since the last one with a conclusive outcome."""
    is_active_damaged: bool = False
    """The active version cannot be served, so a new one is needed even if no rating has changed."""


def is_due(policy: RetrainPolicy, state: RetrainState, now: datetime) -> bool:
    """Whether to start a run: enough changes, a damaged version, or a change that has waited for max_interval.

    At least min_interval after the last start. After n failures in a row, at least min_interval * 2^n after it, up to
    max_interval.
    """
    if not policy.enabled or (state.n_changes == 0 and not state.is_active_damaged):
        return False
    if state.last_started_at is not None and now - state.last_started_at < _pause(policy, state.n_failures):
        return False
    if state.is_active_damaged or state.n_changes >= policy.min_changes:
        return True
    return state.changed_since is not None and now - state.changed_since >= policy.max_interval


def _pause(policy: RetrainPolicy, n_failures: int) -> timedelta:
    if n_failures == 0:
        return policy.min_interval
    return min(policy.min_interval * (1 << min(n_failures, _MAX_DOUBLINGS)), policy.max_interval)


class RetrainMonitor:
    """Reads the state from the database, and remembers since when changes have been waiting.

    No column says when a rating was stored (`rated_at` is up to the client), so the monitor remembers when it first
    saw a change. After a restart it assumes that changes are as old as the last start of a run: better to train too
    early than too late.
    """

    def __init__(self, policy: RetrainPolicy, versions_dir: Path) -> None:
        self._policy = policy
        self._versions_dir = versions_dir
        self._verified: tuple[int, datetime] | None = None  # the version, and when to verify it again
        self._is_damaged = False
        self._changed_since: datetime | None = None
        self._is_new = True

    def is_due(self, connection: Connection, now: datetime) -> bool:
        """Whether to queue a run now; never while a training is queued or running. A search does not count."""
        if not self._policy.enabled or _is_training_open(connection):
            return False
        return is_due(self._policy, self._state(connection, now), now)

    def _state(self, connection: Connection, now: datetime) -> RetrainState:
        is_training = TrainingRun.kind == "train"
        last_started_at = connection.execute(select(func.max(TrainingRun.started_at)).where(is_training)).scalar_one()
        n_changes = _count_changes(connection)
        if n_changes == 0:
            self._changed_since = None
        elif self._changed_since is None:
            self._changed_since = last_started_at if self._is_new and last_started_at else now
        self._is_new = False
        self._verify_active(connection, now)
        n_failures = _count_failures(connection)
        return RetrainState(n_changes, self._changed_since, last_started_at, n_failures, self._is_damaged)

    def _verify_active(self, connection: Connection, now: datetime) -> None:
        """Checks every file's checksum, so the result is reused for VERIFY_EVERY."""
        version = versions.active_number(connection)
        if version is None or (self._verified and self._verified[0] == version and now < self._verified[1]):
            return
        active = versions.get(connection, version)
        try:
            artifacts.verify(self._versions_dir / active.folder, active.manifest)
            self._is_damaged = False
        except DamagedVersion as damaged:
            log.warning("a new version will be trained as soon as the retrain policy allows: %s", damaged)
            self._is_damaged = True
        self._verified = version, now + VERIFY_EVERY


def _is_training_open(connection: Connection) -> bool:
    is_open = TrainingRun.status.in_(("queued", "running"))
    statement = select(TrainingRun.id).where(is_open, TrainingRun.kind == "train").limit(1)
    return connection.execute(statement).first() is not None


def _count_changes(connection: Connection) -> int:
    """Compares revisions first, because counting takes longer."""
    learned = select(func.max(TrainingRun.trained_through)).where(TrainingRun.status.in_(_CONCLUSIVE))
    through: int = connection.execute(learned).scalar_one() or 0
    return store.count_changes_since(connection, through) if revision(connection, "ratings") > through else 0


def _count_failures(connection: Connection) -> int:
    last_conclusive = select(func.max(TrainingRun.id)).where(TrainingRun.status.in_(_CONCLUSIVE)).scalar_subquery()
    failed = (
        select(func.count())
        .select_from(TrainingRun)
        .where(TrainingRun.status == "failed", TrainingRun.kind == "train")
        .where(TrainingRun.id > func.coalesce(last_conclusive, 0))
    )
    return connection.execute(failed).scalar_one()
