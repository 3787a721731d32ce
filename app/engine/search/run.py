"""Does the trials of a search: fit each fold, measure it on what was held out, end early what lags behind."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from app.engine.data.ratings import Ratings
from app.engine.losses.base import Loss
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import Recipe
from app.engine.search.optuna_study import N_CHECKPOINTS, pruning_study
from app.engine.search.propose import propose
from app.engine.search.trials import Parameters, Search, Trial, TrialStatus
from app.engine.sgd.trainer import Diverged, EpochReport, Trainer

TrainerOf = Callable[[Loss], Trainer]
"""The trainer that minimizes a loss."""
Folds = Sequence[tuple[Ratings, Ratings]]
"""(learned, held out), over the same rows: one pair for a hold-out, k for k-fold cross-validation."""


def run_search(
    trainer_of: TrainerOf,
    folds: Folds,
    base: Recipe,
    search: Search,
    *,
    trials: Sequence[Trial] = (),
    on_trial: Callable[[Trial], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> list[Trial]:
    """All trials: `trials`, which were done before, and the rest. Raises FitCancelled soon after is_cancelled()."""
    done = list(trials)
    while (parameters := propose(search, base, done)) is not None:
        trial = run_trial(trainer_of, folds, base, search, parameters, done, is_cancelled=is_cancelled)
        done.append(trial)
        if on_trial:
            on_trial(trial)
    return done


def run_trial(
    trainer_of: TrainerOf,
    folds: Folds,
    base: Recipe,
    search: Search,
    parameters: Parameters,
    earlier: Sequence[Trial],
    *,
    is_cancelled: Callable[[], bool] | None = None,
) -> Trial:
    """Fit and measure each fold; the trial may be pruned during the first.

    A fit that diverges, or a loss that is undefined on these ratings, makes a failed trial.
    """
    started = time.perf_counter()
    curve = _Curve(search, earlier)
    status: TrialStatus = "complete"
    errors: list[float] = []
    reason = None
    try:
        recipe = base.with_values(parameters)
        trainer, chosen = trainer_of(recipe.loss), recipe.hyperparameters
        for number, (learned, held_out) in enumerate(folds):
            on_epoch = None if number else curve.add
            fit = trainer.fit(learned, chosen, holdout=held_out, on_epoch=on_epoch, is_cancelled=is_cancelled)
            errors.append(min(report.holdout_rmse for report in fit.epochs if report.holdout_rmse is not None))
        curve.fill()
    except _Pruned:
        status = "pruned"
        errors = [curve.values[-1]]
    except (Diverged, InvalidLoss) as error:
        status, reason = "failed", str(error)
    value = None if status == "failed" else statistics.fmean(errors)
    seconds = round(time.perf_counter() - started, 4)
    return Trial(len(earlier), parameters, status, value, seconds, tuple(curve.values), reason)


class _Pruned(Exception):
    """Optuna's pruner ends the trial."""


class _Curve:
    """The lowest hold-out error of a trial's first fold at every checkpoint, shown to a pruner."""

    def __init__(self, search: Search, earlier: Sequence[Trial]) -> None:
        self.values: list[float] = []
        self._lowest = math.inf
        self._trial = pruning_study(search, earlier).ask() if search.pruning != "none" and earlier else None

    def add(self, report: EpochReport) -> None:
        """Raises _Pruned."""
        assert report.holdout_rmse is not None
        self._lowest = min(self._lowest, report.holdout_rmse)
        while len(self.values) < N_CHECKPOINTS * report.epoch // report.n_epochs:
            self.values.append(self._lowest)
            if self._trial and len(self.values) < N_CHECKPOINTS:
                self._trial.report(self._lowest, len(self.values))
                if self._trial.should_prune():
                    raise _Pruned

    def fill(self) -> None:
        """A fit that stopped by itself, because it no longer improved, stays at its lowest error."""
        self.values += [self._lowest] * (N_CHECKPOINTS - len(self.values))
