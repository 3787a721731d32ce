"""What the ratings say of the users as a crowd, of the noise, and of how far popularity can be trusted."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Counts, Matrix32, Vector32
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import Tally, count_rows, mean_and_variance, spread_of_moments
from app.engine.factors import FactorModel, UserPrior
from app.engine.losses.base import Loss
from app.engine.losses.derivatives import derivatives_of
from app.engine.parallel import ROWS_OF_A_PART, in_parts, n_parts_of

_CROWD = 30_000
"""Users that tell the crowd's mean and covariance, or up to twice as many: more would not change what is believed."""
_NOISE_USERS = 500
"""Users whose held-out ratings measure the noise: more would cost time and change the third digit."""
_NOISE_WEIGHT = 20.0
"""Held-out ratings that the estimate without a hold-out weighs against those there are."""

_BIAS_SHARE = 0.15
"""Share of the ratings' variance that users' biases have where people rate films: the guess before there are users."""
_BIAS_WEIGHT = 10.0
"""Users that this guess weighs against those there are."""


def crowd_prior(
    user_bias: Vector32, user_factors: Matrix32, user_counts: Counts, value_variance: float, pool: Executor
) -> UserPrior:
    """Mean and covariance of x_u = [b_u, p_u] over users with ratings, each once.

        m = sum x_u / (n + 1)        C = (sum (x_u - m)(x_u - m)' + nu T) / (n + nu),  nu = 2 (k + 1)

    T is diagonal, one variance for biases and one for factors: few users say little about (k + 1)^2 covariances, and
    shrinking towards T lowers the error of what they do say (Ledoit & Wolf 2004; nu as in a Wishart prior). With hardly
    any users the bias variance is near a usual one, so that a new user's first rating counts.
    """
    from app.engine.sgd.user_prior_kernels import add_moments

    rated = np.flatnonzero(user_counts)
    asked = rated[:: max(1, rated.size // _CROWD)]
    n, size = asked.size, 1 + user_factors.shape[1]
    n_parts = n_parts_of(n, ROWS_OF_A_PART)
    sums, products = np.zeros((n_parts, size)), np.zeros((n_parts, size, size))
    in_parts(pool, add_moments, n, user_bias[asked], user_factors[asked], sums, products, least=ROWS_OF_A_PART)
    total, scatter = sums.sum(axis=0), products.sum(axis=0)
    scatter += np.triu(scatter, 1).T
    mean = total / (n + 1)
    pull = np.outer(mean, total)
    scatter += n * np.outer(mean, mean) - pull - pull.T
    target = np.full(size, np.diag(scatter)[1:].mean() / max(n, 1) + 1e-4 * value_variance)
    usual_bias_variance = _BIAS_SHARE * value_variance
    target[0] = (scatter[0, 0] + _BIAS_WEIGHT * usual_bias_variance) / (n + _BIAS_WEIGHT)
    weight = 2.0 * size
    return UserPrior(mean, (scatter + weight * np.diag(target)) / (n + weight))


def with_measured_noise(
    model: FactorModel, ratings: Ratings, holdout: Ratings, seed: int, pool: Executor, *, n_rounds: int = 2
) -> FactorModel:
    """The model with s2 such that the variance promised for held-out ratings is the one found:

        s2 = mean (r - r_hat)^2 - mean y' A_u^-1 y

    over the held-out ratings of known items of up to 500 users, folded in from their training ratings. s2 enters A_u,
    so this is repeated, unless the model's own is near already; then half the users do. A few held-out ratings move
    the model's own estimate only a little. The temperature of another loss is measured on the same ratings, and lowered
    by the same share of doubt.
    """
    from app.engine.fold_in.fold_in import FoldIn

    users = np.flatnonzero(count_rows(holdout.user_rows, holdout.n_users))
    if users.size > (most := _NOISE_USERS * n_rounds // 2):
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    for _ in range(n_rounds):
        if model.loss.is_squared:
            squared_error, doubt, n = FoldIn(model).held_out_errors(users, ratings, holdout, pool)
        else:
            seen = _held_out_errors(model, users, ratings, holdout)
            squared_error, doubt, n = seen.squared_error, seen.doubt, seen.n
        found = max(squared_error - doubt, 0.1 * squared_error)
        noise = (found + _NOISE_WEIGHT * model.noise_variance) / (n + _NOISE_WEIGHT)
        model = dataclasses.replace(model, noise_variance=noise)
        if not model.loss.is_squared and seen.n:
            share = found / seen.squared_error if seen.squared_error else 1.0
            found = share * temperature_of(model.loss, np.concatenate(seen.scores), np.concatenate(seen.values))
            temperature = (seen.n * found + _NOISE_WEIGHT * model.temperature) / (seen.n + _NOISE_WEIGHT)
            model = dataclasses.replace(model, temperature=temperature)
    return model


def temperature_of(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """T such that exp(-error / T) has as much spread in its slopes as curvature: mean slope^2 / mean curvature.

    For a likelihood's own error that is 1 (White 1982, theorem 3.3), for half the squared error the mean squared error.
    Where the error is made of straight lines it is the mean error, as for Laplace's distribution.
    """
    errors, slopes, curvatures = derivatives_of(loss)(np.asarray(values, np.float64), np.asarray(scores, np.float64))
    usable = np.isfinite(slopes)
    spread, curvature = float(np.square(slopes[usable]).mean()), float(curvatures[usable].mean())
    if spread > 0 and curvature > 1e-9 * spread:
        return spread / curvature
    mean_error = float(errors[usable].mean())
    return mean_error if mean_error > 0 else 1.0


def spread_of(values: Vector32) -> float:
    """Standard deviation of the ratings; see `spread_of_moments` for ratings that are all equal."""
    return spread_of_moments(*mean_and_variance(values))


def item_means(counted: Tally) -> Vector32:
    """Plain mean of each item's ratings; the overall mean where there are none."""
    means = counted.item_sums / np.maximum(counted.item_counts, 1)
    return np.where(counted.item_counts > 0, means, counted.mean).astype(np.float32)


@dataclasses.dataclass(slots=True)
class _HeldOut:
    """Sums of (r - r_hat)^2 and of its promised part y' A_u^-1 y over held-out ratings of known items."""

    squared_error: float = 0.0
    doubt: float = 0.0
    n: int = 0
    scores: list[Vector32] = dataclasses.field(default_factory=list)
    values: list[Vector32] = dataclasses.field(default_factory=list)


def _held_out_errors(model: FactorModel, users: npt.NDArray[np.int64], ratings: Ratings, holdout: Ratings) -> _HeldOut:
    """Of these users, each folded in from the ratings under the model's own loss."""
    from app.engine.fold_in.fold_in import FoldIn

    fold_in = FoldIn(model)
    seen = _HeldOut()
    for user_row in users.tolist():
        known, asked = ratings.of_user(user_row), holdout.of_user(user_row)
        is_known = model.item_counts[holdout.item_rows[asked]] > 0
        item_rows, actual = holdout.item_rows[asked][is_known], holdout.values[asked][is_known]
        side = fold_in.fold_in(ratings.item_rows[known], ratings.values[known])
        values, variances = fold_in.predict(side, item_rows)
        errors = (actual - values).astype(np.float64)
        seen.squared_error += float((errors**2).sum())
        seen.doubt += float((variances.astype(np.float64) - model.noise_variance).sum())
        seen.n += errors.size
        if not model.loss.is_squared:
            seen.scores.append(fold_in.scores(side, item_rows)[0])
            seen.values.append(actual)
    return seen
