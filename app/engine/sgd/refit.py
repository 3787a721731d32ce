"""Training on every rating, the hold-out included: the model that is published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.trainer import EpochReport, Fit, Trainer, WarmStart


def refit(
    trainer: Trainer,
    ratings: Ratings,
    hyperparameters: Hyperparameters,
    first: Fit,
    *,
    start: WarmStart | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Fit:
    """A fit of all ratings with the schedule of the first fit, ended after its best epoch.

    The noise is that of the first fit: it can only be measured on held-out ratings.
    """
    settings = hyperparameters.replace(stop_after=first.best_epoch)
    fit = trainer.fit(ratings, settings, start=start, on_epoch=on_epoch, is_cancelled=is_cancelled)
    model = dataclasses.replace(
        fit.model, noise_variance=first.model.noise_variance, temperature=first.model.temperature
    )
    return dataclasses.replace(fit, model=model)
