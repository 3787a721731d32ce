"""Whether a run starts from the active version (a warm start), and how.

A version stores two fits: the published one, which has learned every rating, and the evaluated one, which never saw
the hold-out. A warm run continues both separately: its evaluated fit starts from the evaluated one, so the hold-out
stays unseen however many warm runs follow each other, and its published fit starts from the published one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.arrays import Mask, Rows
from app.engine.data.id_search import look_up
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import count_rows
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.recipe import Recipe
from app.engine.sgd.trainer import WarmStart
from app.engine.sgd.warm_start import carry_over, sample, warm_hyperparameters
from app.registry import artifacts
from app.registry.artifacts import DamagedVersion
from app.registry.metrics import Gate, Start
from app.registry.versions import VersionRow
from app.settings import Training
from app.training.snapshot.take import TrainingSnapshot

log = logging.getLogger(__name__)

_MAX_NEW_SHARE = 0.2
"""If more than this share of the ratings has changed, or of the users or items is new, a run starts cold."""
_UNKNOWN = -1


class ColdStart(Exception):
    """The run must start from random vectors: says why."""


class Drifted(Exception):
    """A series of warm versions has become worse: says by how much."""


@dataclass(frozen=True, slots=True)
class WarmPlan:
    """The fits that a run starts from, and how it continues them."""

    version: int
    n_in_a_row: int
    """Warm versions since the last cold one, including the one that this run makes."""
    drift_before: float
    """RMSE of the version divided by that of the last cold one: the product of the ratios that the gates measured."""
    hyperparameters: Hyperparameters
    published: FactorModel
    evaluated: FactorModel
    user_rows: Rows
    item_rows: Rows
    """The version's row of each row of the snapshot, -1 for unknown ones."""
    share: float
    """Of the unchanged ratings, those that are learned again."""
    changed: Mask
    """Which ratings of the snapshot are newer than the version."""
    published_average: FactorModel | None = None
    evaluated_average: FactorModel | None = None
    """The averages, if the version was averaged."""

    def start_of_fit(self, fit: FactorModel, ratings: Ratings, is_changed: Mask) -> WarmStart:
        """Start from one of the fits: learns the changed ratings and a sample of the others."""
        seed = [self.hyperparameters.seed, self.n_in_a_row]  # every run draws other unchanged ratings
        learned = sample(ratings, is_changed, self.share, seed)
        return carry_over(fit, ratings, self.user_rows, self.item_rows, learned)

    def start_of_chain(self, average: FactorModel | None, ratings: Ratings) -> WarmStart | None:
        """Start from one of the averages."""
        return carry_over(average, ratings, self.user_rows, self.item_rows, ratings) if average else None

    def metrics(self) -> Start:
        return Start(
            is_warm=True,
            from_version=self.version,
            n_warm_in_a_row=self.n_in_a_row,
            n_changed=int(self.changed.sum()),
            drift=self.drift_before,
        )

    def metrics_with_drift(self, gate: Gate | None, limit: float) -> Start:
        """Metrics with the drift of this run included, whose ratio the gate measured, if it measured this version.

        Raises Drifted if the RMSE has grown by more than `limit` over the warm versions in a row.
        """
        if not gate or gate.active_version != self.version or not gate.active_rmse or gate.rmse is None:
            return self.metrics()
        drift = self.drift_before * (gate.rmse / gate.active_rmse)
        if drift > 1.0 + limit:
            raise Drifted(f"{self.n_in_a_row} warm versions in a row are worse by {drift - 1.0:.2%} in total")
        return self.metrics().model_copy(update={"drift": round(drift, 6)})


def plan_warm_run(
    active: VersionRow | None, versions_dir: Path, snapshot: TrainingSnapshot, recipe: Recipe, settings: Training
) -> WarmPlan:
    """How to continue the active version; raises ColdStart."""
    if active is None:
        raise ColdStart("there is no active version")
    _refuse_other_recipe(active.manifest, recipe)
    _refuse_by_size(snapshot, settings)
    before = active.manifest.get("start", {})
    n_in_a_row = int(before.get("n_warm_in_a_row", 0)) + 1
    if n_in_a_row >= settings.cold_start_every:
        raise ColdStart(f"every {settings.cold_start_every}th version starts cold")
    folder = versions_dir / active.folder
    try:
        holdout_fit = artifacts.load_holdout_fit(folder, active.manifest)
        published = artifacts.load(folder, active.version, active.manifest).model
        starts = artifacts.load_starts(folder, active.manifest)
    except DamagedVersion as damaged:
        raise ColdStart(str(damaged)) from damaged
    evaluated = holdout_fit.model if holdout_fit else None
    published_average = evaluated_average = None
    if starts:
        if evaluated and evaluated.n_users:
            published_average, evaluated_average = published, evaluated
        published, evaluated = starts
    if holdout_fit is None or evaluated is None or evaluated.n_users == 0:
        raise ColdStart(f"version {active.version} did not store its evaluated fit")
    user_rows = look_up(holdout_fit.user_row_of_key, snapshot.user_keys)
    item_rows = look_up(holdout_fit.item_row_of_key, snapshot.item_keys)
    item_rows[published.item_counts[item_rows] == 0] = _UNKNOWN  # rows without ratings were not trained
    is_rated = count_rows(snapshot.ratings.item_rows, snapshot.ratings.n_items) > 0
    for rows, kind in ((user_rows, "users"), (item_rows[is_rated], "items")):
        if (n_new := int((rows == _UNKNOWN).sum())) > _MAX_NEW_SHARE * rows.size:
            raise ColdStart(f"{n_new} of {rows.size} {kind} are new")
    changed = np.zeros(len(snapshot.ratings), np.bool_)
    changed[snapshot.changed] = True
    return WarmPlan(
        version=active.version,
        n_in_a_row=n_in_a_row,
        drift_before=float(before.get("drift", 1.0)),
        hyperparameters=warm_hyperparameters(recipe.hyperparameters, settings.warm_start_epochs),
        published=published,
        evaluated=evaluated,
        user_rows=user_rows,
        item_rows=item_rows,
        share=settings.warm_start_fraction,
        changed=changed,
        published_average=published_average,
        evaluated_average=evaluated_average,
    )


def _refuse_other_recipe(manifest: dict[str, Any], recipe: Recipe) -> None:
    if Loss.from_dict(manifest["loss"]) != recipe.loss:
        raise ColdStart("the active version was fitted with another loss")
    old, new = manifest["hyperparameters"], recipe.hyperparameters.to_dict()
    if different := sorted(name for name in new if old.get(name) != new[name]):
        raise ColdStart(f"the active version was fitted with other hyperparameters: {', '.join(different)}")


def _refuse_by_size(snapshot: TrainingSnapshot, settings: Training) -> None:
    n_ratings, n_changed = len(snapshot.ratings), 0 if snapshot.changed is None else snapshot.changed.size
    if n_ratings < settings.warm_start_min_ratings:
        raise ColdStart(f"training {n_ratings} ratings from scratch takes little time")
    if not n_changed:
        raise ColdStart("no rating is newer than the active version")
    if n_changed > _MAX_NEW_SHARE * n_ratings:
        raise ColdStart(f"{n_changed} of {n_ratings} ratings are newer than the active version")
