"""When the trainer starts a run by itself: bursts of ratings are learned once, and no rating waits for ever."""

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
from app.registry.versions import VersionRow
from app.settings import RetrainPolicy
from app.training.models import TrainingRun

log = logging.getLogger(__name__)

_LEARNED: tuple[str, ...] = ("succeeded", "rejected", "cancelled")
"""Outcomes that trying again with the same ratings would not change, or should not."""
_MOST_DOUBLINGS = 20
VERIFY_EVERY = timedelta(minutes=10)


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
    is_active_damaged: bool = False
    """Whether the version that is to answer cannot: then a new one is worth while, whatever has changed."""


def is_due(policy: RetrainPolicy, facts: Facts, now: datetime) -> bool:
    """Enough changes, or a damaged version, and not too soon after the last start; or changes that waited too long.

    After n failures in a row the next start waits min_interval * 2^n, up to max_interval, whatever has changed.
    """
    if not policy.is_on or (facts.n_changes == 0 and not facts.is_active_damaged):
        return False
    if facts.last_started_at is not None and now - facts.last_started_at < _pause(policy, facts.n_failures):
        return False
    if facts.is_active_damaged or facts.n_changes >= policy.min_changes:
        return True
    return facts.changed_since is not None and now - facts.changed_since >= policy.max_interval


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a look at the files of a version has found, and how long that is believed."""

    version: int
    until: datetime
    is_damaged: bool


class Watch:
    """Looks at the database every now and then, and remembers since when changes have been waiting.

    No column says when a rating was changed (`rated_at` is when the user felt it), so the watch notes when it
    first saw one. A watch that starts anew cannot know, and takes the last start of a run for it: too early
    rather than too late.
    """

    def __init__(self, policy: RetrainPolicy, versions_dir: Path) -> None:
        self._policy = policy
        self._versions_dir = versions_dir
        self._verified: _Verified | None = None
        self._changed_since: datetime | None = None
        self._is_new = True

    def is_due(self, connection: Connection, now: datetime) -> bool:
        """Whether a run should be queued now; never while one is queued or running. A search makes room for it."""
        if not self._policy.is_on or _is_any_open(connection):
            return False
        return is_due(self._policy, self._facts(connection, now), now)

    def _facts(self, connection: Connection, now: datetime) -> Facts:
        is_training = TrainingRun.kind == "train"
        last_started_at = connection.execute(select(func.max(TrainingRun.started_at)).where(is_training)).scalar_one()
        n_changes = _count_changes(connection)
        if n_changes == 0:
            self._changed_since = None
        elif self._changed_since is None:
            self._changed_since = last_started_at if self._is_new and last_started_at else now
        self._is_new = False
        is_damaged = self._is_active_damaged(connection, now)
        return Facts(n_changes, self._changed_since, last_started_at, _count_failures(connection), is_damaged)

    def _is_active_damaged(self, connection: Connection, now: datetime) -> bool:
        """What the files of the active version were found to be; a new look takes as long as their checksums."""
        number = versions.active_number(connection)
        if number is None:
            return False
        if self._verified is None or self._verified.version != number or now >= self._verified.until:
            is_damaged = self._find_damage(versions.get(connection, number))
            self._verified = _Verified(number, now + VERIFY_EVERY, is_damaged)
        return self._verified.is_damaged

    def _find_damage(self, active: VersionRow) -> bool:
        try:
            artifacts.verify(self._versions_dir / active.folder, active.manifest)
        except DamagedVersion as damaged:
            log.warning("a new version is trained as soon as the policy allows: %s", damaged)
            return True
        return False


def _is_any_open(connection: Connection) -> bool:
    is_open = TrainingRun.status.in_(("queued", "running"))
    statement = select(TrainingRun.id).where(is_open, TrainingRun.kind == "train").limit(1)
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
        .where(TrainingRun.status == "failed", TrainingRun.kind == "train")
        .where(TrainingRun.id > func.coalesce(last_other, 0))
    )
    return connection.execute(failed).scalar_one()


def _pause(policy: RetrainPolicy, n_failures: int) -> timedelta:
    if n_failures == 0:
        return policy.min_interval
    return min(policy.min_interval * (1 << min(n_failures, _MOST_DOUBLINGS)), policy.max_interval)
