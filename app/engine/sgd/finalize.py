"""From trained factors to a model: everything else that a version holds is estimated here, by every trainer alike."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import Executor

from app.engine.arrays import Matrix32, Vector32
from app.engine.data.popularity import learned_shrinkage
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import Tally
from app.engine.factors import FactorModel
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.sgd.user_prior import crowd_prior, item_means, temperature_of, with_measured_noise

_SHOWN = 100_000
"""Ratings, evenly spaced, from which the temperature of a loss is taken."""


def finish(
    ratings: Ratings,
    *,
    mean: float,
    item_bias: Vector32,
    item_factors: Matrix32,
    user_bias: Vector32,
    user_factors: Matrix32,
    train_rmse: float,
    holdout: Ratings | None,
    seed: int,
    counted: Tally,
    pool: Executor,
    loss: Loss = SQUARED,
    noise_before: float | None = None,
) -> FactorModel:
    """The model of these factors. The arrays are the model's from here on: rows without ratings are set to averages.

    Without a hold-out the noise is taken halfway, by ratio, between the training error and the spread of the ratings:
    a fit always explains its own ratings too well. A warm fit knows the noise of the model that it began with.
    """
    user_counts, item_counts = counted.user_counts, counted.item_counts
    value_variance = counted.spread**2
    score_variance = value_variance / float(loss.rating_slope_of(mean)) ** 2
    prior = crowd_prior(user_bias, user_factors, user_counts, score_variance, pool)
    user_bias[user_counts == 0], user_factors[user_counts == 0] = prior.mean[0], prior.mean[1:]
    item_bias[item_counts == 0], item_factors[item_counts == 0] = item_bias[item_counts > 0].mean(), 0.0
    means = item_means(counted)
    model = FactorModel(
        mean=mean,
        item_bias=item_bias,
        item_factors=item_factors,
        user_bias=user_bias,
        user_factors=user_factors,
        user_prior=prior,
        noise_variance=noise_before or max(train_rmse * math.sqrt(value_variance), 1e-3 * value_variance),
        item_counts=item_counts,
        item_means=means,
        user_counts=user_counts,
        popularity_shrinkage=learned_shrinkage(counted.item_counts, means, counted.mean, counted.variance),
        loss=loss,
    )
    if not loss.is_squared:
        shown = slice(None, None, max(1, len(ratings) // _SHOWN))
        scores = model.scores(ratings.user_rows[shown], ratings.item_rows[shown])
        model = dataclasses.replace(model, temperature=temperature_of(loss, scores, ratings.values[shown]))
    if holdout is None:
        return model
    return with_measured_noise(model, ratings, holdout, seed, pool, n_rounds=1 if noise_before else 2)
