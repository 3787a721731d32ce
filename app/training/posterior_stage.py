"""Posterior averaging as a stage of a run: whether it is worth its time, and the average of each fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.engine.arrays import Matrix32
from app.engine.bayes.average import PosteriorFit, PosteriorSettings, SweepReport, average_posterior
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.parallel import usable_cores
from app.engine.sgd.trainer import EpochReport, Fit, WarmStart
from app.registry.metrics import Averaging
from app.training.models import Phase

_SECONDS_PER_RATING = 9e-8
_SECONDS_PER_ROW = 6e-6
"""Time of a sweep on one processor, including what it stores: measured, see docs/accuracy.md."""
_N_FITS = 2
_WARM_SHARE = 0.4
_WARM_BURN_IN = 5
"""Sweeps of a chain that starts from an earlier average: this many are as good as all sweeps of one from a fit."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fit, and the posterior average that started from it, if the run averages."""

    fit: Fit
    average: PosteriorFit | None

    @property
    def model(self) -> FactorModel:
        return self.average.model if self.average else self.fit.model

    def metrics(self) -> Averaging:
        """What averaging did and gained."""
        if self.average is None:
            return Averaging(is_on=False)
        errors = {
            "holdout_rmse": self.average.sweeps[-1].holdout_rmse,
            "holdout_rmse_before": self.fit.best.holdout_rmse,
        }
        rounded = {name: round(error, 6) for name, error in errors.items() if error is not None}
        n_sweeps, n_factors = len(self.average.sweeps), self.average.model.n_factors
        return Averaging(is_on=True, n_sweeps=n_sweeps, n_factors=n_factors, **rounded)


@dataclass(frozen=True, slots=True)
class PosteriorStage:
    """Averages both fits of a run, with the random seed of the run."""

    seed: int
    n_threads: int
    settings: PosteriorSettings
    is_cancelled: Callable[[], bool]
    on_epoch: Callable[[Phase, EpochReport], None]
    """Called after every sweep."""
    item_features: Matrix32 | None = None

    @classmethod
    def of(
        cls,
        hyperparameters: Hyperparameters,
        ratings: Ratings,
        *,
        is_squared: bool,
        n_threads: int | None,
        limit: timedelta,
        is_cancelled: Callable[[], bool],
        on_epoch: Callable[[Phase, EpochReport], None],
    ) -> PosteriorStage | None:
        """The stage, or None if the run goes without: switched off, too slow, or a loss that is not squared.

        The sampled models have Gaussian noise, which corresponds to the squared loss only.
        """
        threads = n_threads or usable_cores()
        is_quick = projected_seconds(ratings, hyperparameters.n_sweeps, threads) <= limit.total_seconds()
        mode = hyperparameters.posterior
        if mode == "off" or not is_squared or (mode == "auto" and not is_quick):
            return None
        settings = PosteriorSettings(n_sweeps=hyperparameters.n_sweeps)
        return cls(hyperparameters.seed, threads, settings, is_cancelled, on_epoch)

    def evaluated(self, fit: Fit, train: Ratings, holdout: Ratings, earlier: WarmStart | None = None) -> PosteriorFit:
        """The average measured on the hold-out, started from the fit or from an earlier average."""
        return self._average("sample", fit, earlier, train, holdout=holdout)

    def final(
        self, fit: Fit, ratings: Ratings, first: PosteriorFit | None, earlier: WarmStart | None = None
    ) -> PosteriorFit:
        """The average for all ratings, with as many sweeps and factors and the same intervals as the first one."""
        return self._average("resample", fit, earlier, ratings, first=first)

    def _average(
        self, phase: Phase, fit: Fit, earlier: WarmStart | None, ratings: Ratings, **options: Any
    ) -> PosteriorFit:
        settings = self.settings
        if earlier:
            n_sweeps = max(round(_WARM_SHARE * settings.n_sweeps), 1)
            settings = dataclasses.replace(settings, n_sweeps=n_sweeps, n_burn_in=_WARM_BURN_IN)
        return average_posterior(
            earlier or fit.model,
            ratings,
            seed=self.seed,
            n_threads=self.n_threads,
            settings=settings,
            item_features=self.item_features,
            is_cancelled=self.is_cancelled,
            on_sweep=lambda sweep: self.on_epoch(phase, as_epoch(sweep)),
            **options,
        )


def projected_seconds(ratings: Ratings, n_sweeps: int, n_threads: int) -> float:
    """Time that averaging both fits of a run takes if no chain settles early."""
    per_sweep = _SECONDS_PER_RATING * len(ratings) + _SECONDS_PER_ROW * (ratings.n_users + ratings.n_items)
    return _N_FITS * n_sweeps * per_sweep / n_threads


def as_epoch(sweep: SweepReport) -> EpochReport:
    """A sweep as an epoch: learning rate 0, and the sampled noise as its training error."""
    return EpochReport(
        epoch=sweep.sweep,
        n_epochs=sweep.n_sweeps,
        learning_rate=0.0,
        train_rmse=math.sqrt(sweep.noise_variance),
        holdout_rmse=sweep.holdout_rmse,
        ratings_per_second=sweep.ratings_per_second,
    )
