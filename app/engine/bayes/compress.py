"""From the running means of a chain to one ordinary factor model."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix32, Vector32, Vector64, evenly_spaced
from app.engine.bayes.calibrate import calibrate, calibrate_like
from app.engine.bayes.low_rank import LowRank, truncate
from app.engine.data.features import Features
from app.engine.data.popularity import learned_shrinkage
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import rating_statistics
from app.engine.factors import FactorModel, Posterior
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import LEVELS, N_BUCKETS
from app.engine.linalg import Parts, product
from app.engine.retrieval.by_relevance import with_exposure
from app.engine.sgd.user_prior import estimate_user_prior

_MAX_LEFT_OUT = 1e-3
"""Share of the squared predictions, biases apart, that the rank of the model may leave out."""
_PRIOR_USERS = 500
"""Users whose covariances are averaged for the prior covariance: more would change the third digit."""
_EM_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class PosteriorMeans:
    """Means over the samples of a chain; left right' is that of the predictions, less `mean`."""

    mean: float
    left: Matrix32
    right: Matrix32
    noise_variance: float
    item_variance: Vector64
    """[n_items]: variance that the uncertainty of an item adds to a rating of it, for the average user."""
    ridge: float
    user_features: Features
    projection: Matrix32
    """[n_items, D]: from rated items to the directions of a user (see `who_rated_what`)."""
    user_parts: Parts
    item_parts: Parts


def compress(
    pool: Executor,
    means: PosteriorMeans,
    ratings: Ratings,
    holdout: Ratings | None,
    first: FactorModel | None,
    max_rank: int,
) -> FactorModel:
    """The factor model of these means. Scales and intervals are fitted to the hold-out, or those of `first`."""
    summary = rating_statistics(ratings, pool)
    user_counts, item_counts = summary.user_counts, summary.item_counts
    user_bias, item_bias, narrow = _with_biases(pool, means, user_counts > 0, item_counts > 0, first, max_rank)
    item_noise = (1.0 + means.item_variance / means.noise_variance).astype(np.float32)
    model = FactorModel(
        mean=means.mean,
        item_bias=item_bias,
        item_factors=narrow.right,
        user_bias=user_bias,
        user_factors=narrow.left,
        user_prior=estimate_user_prior(user_bias, narrow.left, user_counts, summary.spread**2, pool),
        noise_variance=means.noise_variance,
        item_counts=item_counts,
        item_means=summary.item_means,
        user_counts=user_counts,
        popularity_shrinkage=learned_shrinkage(summary.item_counts, summary.item_means, summary.mean, summary.variance),
        posterior=_posterior(means, np.column_stack([user_bias, narrow.left]), user_counts > 0, item_noise),
    )
    model = with_exposure(_with_user_uncertainty(model, ratings), means.projection, means.user_features)
    return calibrate(model, ratings, holdout) if first is None else calibrate_like(model, first)


def _with_biases(
    pool: Executor,
    means: PosteriorMeans,
    is_user: np.ndarray,
    is_item: np.ndarray,
    first: FactorModel | None,
    max_rank: int,
) -> tuple[Vector32, Vector32, LowRank]:
    """b_u, b_i and p.q with b_u + b_i + p.q = x.y: a row's bias is its product with the mean row of the other side.

    The rank leaves out less than a thousandth of the squares of p.q.
    """
    left_mean = means.left[is_user].mean(axis=0, dtype=np.float64)
    right_mean = means.right[is_item].mean(axis=0, dtype=np.float64)
    left, right = means.left - left_mean.astype(np.float32), means.right - right_mean.astype(np.float32)
    user_bias = product(pool, means.user_parts, left, right_mean[:, None])[:, 0]
    item_bias = product(pool, means.item_parts, means.right, left_mean[:, None])[:, 0]
    rank = first.n_factors if first is not None else max_rank
    narrow = truncate(pool, left, right, rank, means.user_parts, means.item_parts)
    if first is None:
        left_out = 1.0 - np.cumsum(narrow.spectrum**2) / max(float((narrow.spectrum**2).sum()), 1e-300)
        rank = max(min(int(np.searchsorted(-left_out, -_MAX_LEFT_OUT)) + 1, max_rank), 1)
    users, items = (np.ascontiguousarray(side[:, :rank]) for side in (narrow.left, narrow.right))
    return np.ascontiguousarray(user_bias), np.ascontiguousarray(item_bias), LowRank(users, items, narrow.spectrum)


def _posterior(means: PosteriorMeans, users: Matrix32, is_rated: np.ndarray, item_noise: Vector32) -> Posterior:
    """The implicit prior: ridge regression of the users' vectors on their features, with the ridge of the chain.

    The features are linear in which items a user rated, so that each item has a share in the prior mean. Intervals and
    exposure are still to be set.
    """
    features = means.user_features
    known, vectors = features.values[is_rated].astype(np.float64), users[is_rated].astype(np.float64)
    centre, feature_centre = vectors.mean(axis=0), known.mean(axis=0)
    d = known.shape[1]
    products = known.T @ (vectors - centre)
    weights = np.linalg.solve(known.T @ known + means.ridge * np.eye(d), products)
    residuals = vectors - centre - (known - feature_centre) @ weights
    raw_weights = weights / features.spread[:, None]
    n_directions = means.projection.shape[1]
    return Posterior(
        item_noise=item_noise,
        implicit_factors=np.ascontiguousarray(means.projection @ raw_weights[:n_directions], np.float32),
        implicit_count_slope=raw_weights[n_directions].copy(),
        implicit_intercept=centre - features.centre @ raw_weights - feature_centre @ weights,
        implicit_covariance=residuals.T @ residuals / max(known.shape[0], 1),
        reach=np.zeros(len(LEVELS)),
        user_widening=np.ones(N_BUCKETS),
        item_widening=np.ones(N_BUCKETS),
        holdout_scales=np.ones(2),
        exposure_factors=np.zeros((item_noise.size, 0), np.float32),
        prior_exposure=np.zeros(0),
    )


def _with_user_uncertainty(model: FactorModel, ratings: Ratings) -> FactorModel:
    """Prior covariances that include the uncertainty of each user: cov(x_u - m_u) + mean A_u^-1.

    A_u depends on the prior, so this is repeated: the covariance step of expectation maximisation.
    """
    assert model.posterior is not None
    implicit, population = model.posterior.implicit_covariance, model.user_prior
    users = evenly_spaced(np.flatnonzero(model.user_counts > 0), _PRIOR_USERS)
    for _ in range(_EM_ROUNDS):
        fold_in, covariance = FoldIn(model), np.zeros_like(implicit)
        for user_row in users.tolist():
            of_user = ratings.of_user(user_row)
            covariance += fold_in.fold_in(ratings.item_rows[of_user], ratings.values[of_user]).covariance()
        covariance /= max(users.size, 1)
        posterior = dataclasses.replace(model.posterior, implicit_covariance=implicit + covariance)
        prior = dataclasses.replace(population, covariance=population.covariance + covariance)
        model = dataclasses.replace(model, posterior=posterior, user_prior=prior)
    return model
