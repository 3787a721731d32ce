"""Whether a run goes on from the active version, and how.

A version is two fits: the published one, which has learned every rating, and the examiner, which has not seen the
hold-out. A warm run goes on from both, each in its own line: the fit that is examined starts from the examiner, so
that what is held out stays unseen however many warm runs follow each other, and the one that is published starts from
the published vectors.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.arrays import Mask, Rows
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import count_rows
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.sgd.trainer import WarmStart
from app.engine.sgd.warm_start import carry_over, sample, warm_hyperparameters
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion, look_up
from app.settings import Training
from app.training.snapshot.take import TrainingSnapshot

log = logging.getLogger(__name__)

_MOST_CHANGES = 0.2
"""Share of changed ratings, and of new users or items, beyond which little of the old model is worth keeping."""
_UNKNOWN = -1


class BeginAnew(Exception):
    """There is nothing that the run could go on from, or should: says why."""


@dataclass(frozen=True, slots=True)
class WarmPlan:
    """What a run goes on from, and how it learns from there."""

    version: int
    n_in_a_row: int
    """Warm versions one after the other, with the one that this run makes."""
    drift_before: float
    """Error of the version over that of the last cold one: the product of what each gate has seen."""
    hyperparameters: Hyperparameters
    published: FactorModel
    examiner: FactorModel
    user_rows: Rows
    item_rows: Rows
    """The version's row of each row of the snapshot, -1 for those it does not know."""
    share: float
    changed: Mask
    """Which ratings of the snapshot are newer than the version."""
    averages: tuple[FactorModel, FactorModel] | None = None
    """Published and examined, with their users, where the version is an average."""

    def start_of_examined(self, train: Ratings, is_held_out: Mask) -> WarmStart:
        """For the fit that the hold-out watches."""
        lesson = self._lesson(train, self.changed[~is_held_out])
        return carry_over(self.examiner, train, self.user_rows, self.item_rows, lesson)

    def start_of_published(self, ratings: Ratings) -> WarmStart:
        """For the fit of everything."""
        return carry_over(self.published, ratings, self.user_rows, self.item_rows, self._lesson(ratings, self.changed))

    def average_of_examined(self, train: Ratings) -> WarmStart | None:
        """Where the chain goes on that the hold-out watches."""
        return self.averages and carry_over(self.averages[1], train, self.user_rows, self.item_rows, train)

    def average_of_published(self, ratings: Ratings) -> WarmStart | None:
        """Where the chain over everything goes on."""
        return self.averages and carry_over(self.averages[0], ratings, self.user_rows, self.item_rows, ratings)

    def _lesson(self, ratings: Ratings, is_changed: Mask) -> Ratings:
        seed = [self.hyperparameters.seed, self.n_in_a_row]  # other old ratings every time
        return sample(ratings, is_changed, self.share, seed)

    def drift(self, rmse: float, previous_rmse: float) -> float:
        """Drift with this run's own step: both errors are of the same ratings, which neither fit has seen."""
        return self.drift_before * (rmse / previous_rmse)


def plan_warm_run(
    active: versions.VersionRow | None,
    versions_dir: Path,
    snapshot: TrainingSnapshot,
    chosen: Hyperparameters,
    loss: Loss,
    settings: Training,
) -> WarmPlan:
    """How to go on from the active version; raises BeginAnew."""
    if active is None:
        raise BeginAnew("there is no active version")
    _refuse_what_is_not_alike(active.manifest, chosen, loss)
    _refuse_by_size(snapshot, settings)
    before = active.manifest.get("start", {})
    n_in_a_row = int(before.get("n_warm_in_a_row", 0)) + 1
    if n_in_a_row >= settings.cold_start_every:
        raise BeginAnew(f"every version number {settings.cold_start_every} in a row is learned anew")
    folder = versions_dir / active.folder
    try:
        examiner = artifacts.load_examiner(folder, active.manifest)
        published = artifacts.load(folder, active.version, active.manifest).model
        starts = artifacts.load_starts(folder, active.manifest)
    except DamagedVersion as damaged:
        raise BeginAnew(str(damaged)) from damaged
    examined, averages = (examiner.model if examiner else None), None
    if starts:
        averages = (published, examiner.model) if examiner and examiner.model.n_users else None
        published, examined = starts
    if examiner is None or examined is None or examined.n_users == 0:
        raise BeginAnew(f"version {active.version} did not keep the fit that its hold-out examined")
    user_rows = look_up(examiner.user_row_of_key, snapshot.user_keys)
    item_rows = look_up(examiner.item_row_of_key, snapshot.item_keys)
    item_rows[published.item_counts[item_rows] == 0] = _UNKNOWN  # rows that had no rating to learn from
    is_rated = count_rows(snapshot.ratings.item_rows, snapshot.ratings.n_items) > 0
    for rows, kind in ((user_rows, "users"), (item_rows[is_rated], "items")):
        if (n_new := int((rows == _UNKNOWN).sum())) > _MOST_CHANGES * rows.size:
            raise BeginAnew(f"{n_new} of {rows.size} {kind} are new")
    changed = np.zeros(len(snapshot.ratings), np.bool_)
    changed[snapshot.changed] = True
    return WarmPlan(
        version=active.version,
        n_in_a_row=n_in_a_row,
        drift_before=float(before.get("drift", 1.0)),
        hyperparameters=warm_hyperparameters(chosen, settings.warm_start_epochs),
        published=published,
        examiner=examined,
        user_rows=user_rows,
        item_rows=item_rows,
        share=settings.warm_start_fraction,
        changed=changed,
        averages=averages,
    )


def _refuse_what_is_not_alike(manifest: dict[str, Any], chosen: Hyperparameters, loss: Loss) -> None:
    if Loss.from_dict(manifest["loss"]) != loss:
        raise BeginAnew("the active version was fitted with another loss")
    old, new = manifest["hyperparameters"], chosen.to_dict()
    if others := sorted(name for name in new if old.get(name) != new[name]):
        raise BeginAnew(f"the active version was fitted with other hyperparameters: {', '.join(others)}")


def _refuse_by_size(snapshot: TrainingSnapshot, settings: Training) -> None:
    n_ratings, n_changed = len(snapshot.ratings), 0 if snapshot.changed is None else snapshot.changed.size
    if n_ratings < settings.warm_start_min_ratings:
        raise BeginAnew(f"{n_ratings} ratings are learned anew in no time")
    if not n_changed:
        raise BeginAnew("no rating is newer than the active version")
    if n_changed > _MOST_CHANGES * n_ratings:
        raise BeginAnew(f"{n_changed} of {n_ratings} ratings are newer than the active version")
