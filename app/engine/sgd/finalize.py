"""From trained factors to a model: estimates all else that a version holds."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import Executor

from app.engine.arrays import Matrix32, Vector32
from app.engine.data.popularity import learned_shrinkage
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import RatingStatistics
from app.engine.factors import FactorModel
from app.engine.losses.base import Loss
from app.engine.sgd.user_prior import estimate_user_prior, temperature_of, with_measured_noise

_TEMPERATURE_RATINGS = 100_000
"""Ratings, evenly spaced, from which the temperature of a loss is estimated."""


def finalize(
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
    statistics: RatingStatistics,
    pool: Executor,
    loss: Loss,
    earlier_noise: float | None,
) -> FactorModel:
    """The model of these factors. It takes over the arrays and sets rows without ratings to averages.

    Without a hold-out the noise is taken halfway, by ratio, between the training error and the spread of the ratings:
    a fit always explains its own ratings too well. A warm fit starts from the noise of its earlier model.
    """
    user_counts, item_counts, item_means = statistics.user_counts, statistics.item_counts, statistics.item_means
    value_variance = statistics.spread**2
    score_variance = value_variance / float(loss.rating_slope_of(mean)) ** 2
    prior = estimate_user_prior(user_bias, user_factors, user_counts, score_variance, pool)
    user_bias[user_counts == 0], user_factors[user_counts == 0] = prior.mean[0], prior.mean[1:]
    item_bias[item_counts == 0], item_factors[item_counts == 0] = item_bias[item_counts > 0].mean(), 0.0
    model = FactorModel(
        mean=mean,
        item_bias=item_bias,
        item_factors=item_factors,
        user_bias=user_bias,
        user_factors=user_factors,
        user_prior=prior,
        noise_variance=earlier_noise or max(train_rmse * math.sqrt(value_variance), 1e-3 * value_variance),
        item_counts=item_counts,
        item_means=item_means,
        user_counts=user_counts,
        popularity_shrinkage=learned_shrinkage(item_counts, item_means, statistics.mean, statistics.variance),
        loss=loss,
    )
    if not loss.is_squared:
        sampled = slice(None, None, max(1, len(ratings) // _TEMPERATURE_RATINGS))
        scores = model.scores(ratings.user_rows[sampled], ratings.item_rows[sampled])
        model = dataclasses.replace(model, temperature=temperature_of(loss, scores, ratings.values[sampled]))
    if holdout is None:
        return model
    return with_measured_noise(model, ratings, holdout, seed, pool, n_rounds=1 if earlier_noise else 2)
