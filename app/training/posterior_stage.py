"""Posterior averaging as a stage of a run: whether it is worth its time, and what it makes of a fit."""

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
from app.engine.hyperparameters import Hyperparameters
from app.engine.parallel import usable_cores
from app.engine.sgd.trainer import EpochReport, Fit, WarmStart
from app.training.models import Phase

_SECONDS_PER_RATING = 9e-8
_SECONDS_PER_ROW = 6e-6
"""What a sweep takes on one processor, with what is kept of it: measured, see docs/accuracy.md."""
_FITS = 2
_WARM_SHARE = 0.4
_WARM_BURN_IN = 5
"""Sweeps of a chain that starts at an earlier average: so many are as good as all of one that starts at a fit."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Averages both fits of a run; its random numbers come from the run's seed."""

    seed: int
    n_threads: int
    settings: PosteriorSettings
    is_cancelled: Callable[[], bool]
    on_epoch: Callable[[Phase, EpochReport], None]
    """Told of every sweep."""
    item_features: Matrix32 | None = None
    """What is known of the items besides who rated them."""

    @classmethod
    def of(
        cls,
        chosen: Hyperparameters,
        ratings: Ratings,
        *,
        is_squared: bool,
        n_threads: int | None,
        limit: timedelta,
        is_cancelled: Callable[[], bool],
        on_epoch: Callable[[Phase, EpochReport], None],
    ) -> Stage | None:
        """The stage, or None where the run does without it.

        What is averaged are models of Gaussian noise, so another loss keeps its fit.
        """
        threads = n_threads or usable_cores()
        is_quick = projected_seconds(ratings, chosen.n_sweeps, threads) <= limit.total_seconds()
        if chosen.posterior == "off" or not is_squared or (chosen.posterior == "auto" and not is_quick):
            return None
        return cls(chosen.seed, threads, PosteriorSettings(n_sweeps=chosen.n_sweeps), is_cancelled, on_epoch)

    def examined(self, fit: Fit, train: Ratings, holdout: Ratings, earlier: WarmStart | None = None) -> PosteriorFit:
        """The average that the hold-out watches, from the fit that it watched or from an earlier average."""
        return self._average("sample", fit, earlier, train, holdout=holdout)

    def final(
        self, fit: Fit, ratings: Ratings, first: PosteriorFit | None, earlier: WarmStart | None = None
    ) -> PosteriorFit:
        """The average over models of everything; as long, as wide and with the same intervals as the first."""
        return self._average("resample", fit, earlier, ratings, first=first)

    def _average(
        self, phase: Phase, fit: Fit, earlier: WarmStart | None, ratings: Ratings, **others: Any
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
            **others,
        )


def projected_seconds(ratings: Ratings, n_sweeps: int, n_threads: int) -> float:
    """What both fits of a run would take if no chain settled early."""
    per_sweep = _SECONDS_PER_RATING * len(ratings) + _SECONDS_PER_ROW * (ratings.n_users + ratings.n_items)
    return _FITS * n_sweeps * per_sweep / n_threads


def as_epoch(sweep: SweepReport) -> EpochReport:
    """A sweep as an epoch without steps, whose error on what it learned is that of the noise it drew."""
    return EpochReport(
        epoch=sweep.sweep,
        n_epochs=sweep.n_sweeps,
        learning_rate=0.0,
        train_rmse=math.sqrt(sweep.noise_variance),
        holdout_rmse=sweep.holdout_rmse,
        ratings_per_second=sweep.ratings_per_second,
    )


def with_model(fit: Fit, average: PosteriorFit | None) -> Fit:
    """The fit as it is published: the average in place of its factors, where there is one."""
    return dataclasses.replace(fit, model=average.model) if average else fit


def facts(average: PosteriorFit | None, fit: Fit) -> dict[str, Any]:
    """For the metrics of a run: what the stage did and what it won."""
    if average is None:
        return {"is_on": False}
    errors = {"holdout_rmse": average.sweeps[-1].holdout_rmse, "holdout_rmse_before": fit.best.holdout_rmse}
    rounded = {name: round(error, 6) for name, error in errors.items() if error is not None}
    return {"is_on": True, "n_sweeps": len(average.sweeps), "n_factors": average.model.n_factors, **rounded}
