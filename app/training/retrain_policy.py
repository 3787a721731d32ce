"""When the trainer starts a run by itself: bursts of ratings are learned once, and no rating waits for ever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from app.database import revision
from app.ratings import store
from app.settings import RetrainPolicy
from app.training.models import TrainingRun

_LEARNED: tuple[str, ...] = ("succeeded", "rejected", "cancelled")
"""Outcomes that trying again with the same ratings would not change, or should not."""
_MOST_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision rests on."""

    n_changes: int
    """Ratings changed or removed since the last run that came to a conclusion about them."""
    changed_since: datetime | None
    """A moment not later than the oldest such change, as far as is known."""
    last_started_at: datetime | None
    n_failures: int
    """Runs that failed one after the other until now."""


def is_due(policy: RetrainPolicy, facts: Facts, now: datetime) -> bool:
    """Enough changes and not too soon after the last start; or fewer that have waited too long.

    After n failures in a row the next start waits min_interval * 2^n, up to max_interval, whatever has changed.
    """
    if not policy.is_on or facts.n_changes == 0:
        return False
    if facts.last_started_at is not None and now - facts.last_started_at < _pause(policy, facts.n_failures):
        return False
    if facts.n_changes >= policy.min_changes:
        return True
    return facts.changed_since is not None and now - facts.changed_since >= policy.max_interval


class Watch:
    """Looks at the database every now and then, and remembers since when changes have been waiting.

    No column says when a rating was changed (`rated_at` is when the user felt it), so the watch notes when it
    first saw one. A watch that starts anew cannot know, and takes the last start of a run for it: too early
    rather than too late.
    """

    def __init__(self, policy: RetrainPolicy) -> None:
        self._policy = policy
        self._changed_since: datetime | None = None
        self._is_new = True

    def is_due(self, connection: Connection, now: datetime) -> bool:
        """Whether a run should be queued now; never while one is queued or running."""
        if not self._policy.is_on or _is_any_open(connection):
            return False
        return is_due(self._policy, self._facts(connection, now), now)

    def _facts(self, connection: Connection, now: datetime) -> Facts:
        last_started_at = connection.execute(select(func.max(TrainingRun.started_at))).scalar_one()
        n_changes = _count_changes(connection)
        if n_changes == 0:
            self._changed_since = None
        elif self._changed_since is None:
            self._changed_since = last_started_at if self._is_new and last_started_at else now
        self._is_new = False
        return Facts(n_changes, self._changed_since, last_started_at, _count_failures(connection))


def _is_any_open(connection: Connection) -> bool:
    statement = select(TrainingRun.id).where(TrainingRun.status.in_(("queued", "running"))).limit(1)
    return connection.execute(statement).first() is not None


def _count_changes(connection: Connection) -> int:
    """Counting costs something, so the counter is asked first: it stands still while nothing changes."""
    learned = select(func.max(TrainingRun.trained_through)).where(TrainingRun.status.in_(_LEARNED))
    through: int = connection.execute(learned).scalar_one() or 0
    return store.count_changes_since(connection, through) if revision(connection, "ratings") > through else 0


def _count_failures(connection: Connection) -> int:
    last_other = select(func.max(TrainingRun.id)).where(TrainingRun.status.in_(_LEARNED)).scalar_subquery()
    failed = (
        select(func.count())
        .select_from(TrainingRun)
        .where(TrainingRun.status == "failed", TrainingRun.id > func.coalesce(last_other, 0))
    )
    return connection.execute(failed).scalar_one()


def _pause(policy: RetrainPolicy, n_failures: int) -> timedelta:
    if n_failures == 0:
        return policy.min_interval
    return min(policy.min_interval * (1 << min(n_failures, _MOST_DOUBLINGS)), policy.max_interval)
