"""Posterior averaging as a stage of a run: whether it is worth its time, and the average of each fit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from app.engine.arrays import Matrix32
from app.engine.bayes.average import PosteriorFit, PosteriorSettings, average_posterior
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.parallel import usable_cores
from app.engine.sgd.trainer import Fit, WarmStart
from app.registry.metrics import Averaging
from app.settings import Training
from app.training.lease import Lease
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
        n_sweeps, n_factors = len(self.average.sweeps), self.average.model.n_factors
        metrics = Averaging(is_on=True, n_sweeps=n_sweeps, n_factors=n_factors)
        before, after = self.fit.best.holdout_rmse, self.average.sweeps[-1].holdout_rmse
        if before is not None and after is not None:
            metrics.holdout_rmse, metrics.holdout_rmse_before = round(after, 6), round(before, 6)
        return metrics


@dataclass(frozen=True, slots=True)
class PosteriorStage:
    """Averages both fits of a run, with the random seed of the run."""

    seed: int
    n_threads: int
    settings: PosteriorSettings
    item_features: Matrix32 | None = None

    @classmethod
    def of(
        cls, hyperparameters: Hyperparameters, ratings: Ratings, *, is_squared: bool, settings: Training
    ) -> PosteriorStage | None:
        """The stage, or None if the run goes without: switched off, too slow, or a loss that is not squared.

        The sampled models have Gaussian noise, which corresponds to the squared loss only.
        """
        threads = settings.n_threads or usable_cores()
        seconds = projected_seconds(ratings, hyperparameters.n_sweeps, threads)
        is_quick = seconds <= settings.posterior_time_limit.total_seconds()
        mode = hyperparameters.posterior
        if mode == "off" or not is_squared or (mode == "auto" and not is_quick):
            return None
        return cls(hyperparameters.seed, threads, PosteriorSettings(n_sweeps=hyperparameters.n_sweeps))

    def average(
        self,
        lease: Lease,
        phase: Phase,
        fit: Fit,
        ratings: Ratings,
        earlier: WarmStart | None,
        *,
        holdout: Ratings | None = None,
        first: PosteriorFit | None = None,
    ) -> PosteriorFit:
        """The average started from the fit or from an earlier average; for `holdout` and `first` see the engine."""
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
            holdout=holdout,
            first=first,
            item_features=self.item_features,
            on_sweep=lambda report: lease.report(phase, report),
            is_cancelled=lease.must_stop,
        )


def projected_seconds(ratings: Ratings, n_sweeps: int, n_threads: int) -> float:
    """Time that averaging both fits of a run takes if no chain settles early."""
    per_sweep = _SECONDS_PER_RATING * len(ratings) + _SECONDS_PER_ROW * (ratings.n_users + ratings.n_items)
    return _N_FITS * n_sweeps * per_sweep / n_threads
