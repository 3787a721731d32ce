"""Whether a fit may replace the active version: finite, and not clearly worse on ratings that neither has learned."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.engine.data.id_search import look_up
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.losses.base import Loss
from app.registry import artifacts
from app.registry.artifacts import DamagedVersion
from app.registry.metrics import Gate
from app.registry.versions import VersionRow
from app.settings import RatingScale
from app.training.evaluation.holdout import HoldoutPredictions, HoldoutSplit, predict_holdout
from app.training.snapshot.take import TrainingSnapshot, split

log = logging.getLogger(__name__)


class Rejected(Exception):
    """The fit must not be published: says why."""


def refuse_unless_finite(model: FactorModel) -> None:
    """Raises Rejected if an array of the model holds NaN or infinity."""
    for name, array in model.arrays().items():
        if not np.isfinite(array).all():
            raise Rejected(f"the fitted model contains numbers that are not finite ({name})")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predictions of a fit and of the active version's evaluated fit, for the same ratings."""

    version: int
    new: HoldoutPredictions
    active: HoldoutPredictions

    def metrics(self) -> Gate:
        n_ratings = int(self.new.actual.size)
        rmse, active_rmse = (round(one.rmse, 6) if n_ratings else None for one in (self.new, self.active))
        return Gate(active_version=self.version, n_ratings=n_ratings, rmse=rmse, active_rmse=active_rmse)

    def refuse_if_worse(self, margin: float, loss: Loss) -> None:
        """Raises Rejected if the fit is clearly worse.

        With errors e of the fit and a of the active version: if the mean of d = e^2 - (1 + margin)^2 a^2 is more than
        two standard errors above zero. So a few ratings that happen to suit the old version do not stop a new one. For
        a loss other than the squared one, e^2 and a^2 are its errors.
        """
        differences = self.new.errors(loss) - (1.0 + margin) ** 2 * self.active.errors(loss)
        differences = differences[np.isfinite(differences)]
        if differences.size < 2:
            return
        standard_error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
        if float(differences.mean()) > 2.0 * standard_error:
            raise Rejected(
                f"hold-out error {self.new.rmse:.4f} is worse than {self.active.rmse:.4f} of the active version "
                f"{self.version} on the same {differences.size} ratings, by more than {margin:.1%}"
            )


def compare_with_active(
    model: FactorModel,
    snapshot: TrainingSnapshot,
    train: Ratings,
    holdout: Ratings,
    *,
    active: VersionRow,
    versions_dir: Path,
    holdout_fraction: float,
    scale: RatingScale,
) -> Comparison | None:
    """Compare a fit with the active version as it was before it learned its hold-out; None if that was not stored.

    Both predict ratings that neither has learned from. Which ratings are held out depends on their ids alone (see
    `TrainingSnapshot.holdout_mask`), so the smaller of both hold-outs was held out of both fits. The published model of
    the active version would not do: it has learned most of these ratings.
    """
    try:
        holdout_fit = artifacts.load_holdout_fit(versions_dir / active.folder, active.manifest)
    except DamagedVersion as damaged:  # all the more reason to publish a new one
        log.warning("no comparison with the active version %d: %s", active.version, damaged)
        return None
    if holdout_fit is None:
        return None
    shared_fraction = min(holdout_fraction, active.manifest["hyperparameters"]["holdout_fraction"])
    is_shared = dataclasses.replace(snapshot, ratings=holdout).holdout_mask(shared_fraction)
    shared = HoldoutSplit.of(train, split(holdout, is_shared)[1])
    model_rows = look_up(holdout_fit.item_row_of_key, snapshot.item_keys)
    return Comparison(
        version=active.version,
        new=predict_holdout(model, shared, scale),
        active=predict_holdout(holdout_fit.model, shared, scale, model_rows),
    )
