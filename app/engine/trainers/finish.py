"""From trained factors to a model: everything else that a version holds is estimated here, by every trainer alike."""

from __future__ import annotations

import math

from app.engine.arrays import Matrix32, Vector32
from app.engine.crowd import crowd_prior, item_means, popularity_shrinkage, spread_of, with_measured_noise
from app.engine.dataset import Ratings
from app.engine.factors import FactorModel
from app.engine.tally import count_rows


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
    noise_before: float | None = None,
) -> FactorModel:
    """The model of these factors. The arrays are the model's from here on: rows without ratings are set to averages.

    Without a hold-out the noise is taken halfway, by ratio, between the training error and the spread of the ratings:
    a fit always explains its own ratings too well. A warm fit knows the noise of the model that it began with.
    """
    user_counts = count_rows(ratings.user_rows, ratings.n_users)
    item_counts = count_rows(ratings.item_rows, ratings.n_items)
    value_variance = spread_of(ratings.values) ** 2
    prior = crowd_prior(user_bias, user_factors, user_counts, value_variance)
    user_bias[user_counts == 0], user_factors[user_counts == 0] = prior.mean[0], prior.mean[1:]
    item_bias[item_counts == 0], item_factors[item_counts == 0] = item_bias[item_counts > 0].mean(), 0.0
    means = item_means(ratings, item_counts)
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
        popularity_shrinkage=popularity_shrinkage(ratings, item_counts, means),
    )
    if holdout is None:
        return model
    return with_measured_noise(model, ratings, holdout, seed, n_rounds=1 if noise_before else 2)
