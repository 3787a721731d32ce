"""The prior of a user's bias and vector, and the noise and temperature of a model, estimated from the ratings."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt
from numba import float64, njit, void

from app.engine.arrays import Counts, Matrix32, Matrix64, Positions, Vector32
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import count_rows
from app.engine.factors import FactorModel, UserPrior
from app.engine.fold_in.cholesky import add_products
from app.engine.fold_in.fold_in import FoldIn
from app.engine.losses.base import Loss
from app.engine.losses.derivatives import derivatives_of
from app.engine.numba_types import MATRIX64, PART, READ_MATRIX, READ_VECTOR
from app.engine.parallel import ROWS_OF_A_PART, in_parts, n_parts_of

_PRIOR_USERS = 30_000
"""Users, or up to twice as many, from whom the prior is estimated: more would not change it noticeably."""
_NOISE_USERS = 500
"""Users whose held-out ratings measure the noise: more would cost time and change the third digit."""
_NOISE_WEIGHT = 20.0
"""Held-out ratings that the estimate without a hold-out counts as."""
_BIAS_SHARE = 0.15
"""Share of the ratings' variance that users' biases have where people rate films: the guess before there are users."""
_BIAS_WEIGHT = 10.0
"""Users that this guess counts as."""


def estimate_user_prior(
    user_bias: Vector32, user_factors: Matrix32, user_counts: Counts, value_variance: float, pool: Executor
) -> UserPrior:
    """Mean and covariance of x_u = [b_u, p_u] over users with ratings, each once.

        m = sum x_u / (n + 1)        C = (sum (x_u - m)(x_u - m)' + nu T) / (n + nu),  nu = 2 (k + 1)

    T is diagonal, one variance for biases and one for factors: few users say little about (k + 1)^2 covariances, and
    shrinking towards T lowers the error of what they do say (Ledoit & Wolf 2004; nu as in a Wishart prior). With very
    few users the bias variance is near a usual one, so that a new user's first rating has an effect.
    """
    rated = np.flatnonzero(user_counts)
    sampled = rated[:: max(1, rated.size // _PRIOR_USERS)]
    n, size = sampled.size, 1 + user_factors.shape[1]
    n_parts = n_parts_of(n, ROWS_OF_A_PART)
    sums, products = np.zeros((n_parts, size)), np.zeros((n_parts, size, size))
    in_parts(pool, add_power_sums, n, user_bias[sampled], user_factors[sampled], sums, products, least=ROWS_OF_A_PART)
    total, scatter = sums.sum(axis=0), products.sum(axis=0)
    scatter += np.triu(scatter, 1).T
    mean = total / (n + 1)
    cross = np.outer(mean, total)
    scatter += n * np.outer(mean, mean) - cross - cross.T
    target = np.full(size, np.diag(scatter)[1:].mean() / max(n, 1) + 1e-4 * value_variance)
    usual_bias_variance = _BIAS_SHARE * value_variance
    target[0] = (scatter[0, 0] + _BIAS_WEIGHT * usual_bias_variance) / (n + _BIAS_WEIGHT)
    weight = 2.0 * size
    return UserPrior(mean, (scatter + weight * np.diag(target)) / (n + weight))


def with_measured_noise(
    model: FactorModel, ratings: Ratings, holdout: Ratings, seed: int, pool: Executor, *, n_rounds: int = 2
) -> FactorModel:
    """The model with s2 such that the predicted variance of held-out ratings equals the measured one:

        s2 = mean (r - r_hat)^2 - mean y' A_u^-1 y

    over the held-out ratings of known items of up to 500 users, folded in from their training ratings. s2 enters A_u,
    so this is repeated, unless the model's own is near already; then half the users do. A few held-out ratings change
    the model's own estimate only a little. The temperature of a loss other than the squared one is measured on the same
    ratings, and lowered by the same share of parameter uncertainty.
    """
    users = np.flatnonzero(count_rows(holdout.user_rows, holdout.n_users))
    if users.size > (most := _NOISE_USERS * n_rounds // 2):
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    for _ in range(n_rounds):
        if model.loss.is_squared:
            squared_error, parameter_variance, n = FoldIn(model).held_out_errors(users, ratings, holdout, pool)
        else:
            squared_error, parameter_variance, scores, values = _held_out_errors(model, users, ratings, holdout)
            n = values.size
        residual = max(squared_error - parameter_variance, 0.1 * squared_error)
        noise = (residual + _NOISE_WEIGHT * model.noise_variance) / (n + _NOISE_WEIGHT)
        model = dataclasses.replace(model, noise_variance=noise)
        if not model.loss.is_squared and n:
            share = residual / squared_error if squared_error else 1.0
            measured = share * temperature_of(model.loss, scores, values)
            temperature = (n * measured + _NOISE_WEIGHT * model.temperature) / (n + _NOISE_WEIGHT)
            model = dataclasses.replace(model, temperature=temperature)
    return model


def temperature_of(loss: Loss, scores: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """T such that exp(-error / T) has as much spread in its slopes as curvature: mean slope^2 / mean curvature.

    For a likelihood's own error that is 1 (White 1982, theorem 3.3), for half the squared error the mean squared error.
    Where the error is piecewise linear it is the mean error, as for Laplace's distribution.
    """
    errors, slopes, curvatures = derivatives_of(loss)(np.asarray(values, np.float64), np.asarray(scores, np.float64))
    usable = np.isfinite(slopes)
    spread, curvature = float(np.square(slopes[usable]).mean()), float(curvatures[usable].mean())
    if spread > 0 and curvature > 1e-9 * spread:
        return spread / curvature
    mean_error = float(errors[usable].mean())
    return mean_error if mean_error > 0 else 1.0


def _held_out_errors(
    model: FactorModel, users: Positions, ratings: Ratings, holdout: Ratings
) -> tuple[float, float, Vector32, Vector32]:
    """The sums of `FoldIn.held_out_errors` under the model's own loss, and the score and the value of each rating."""
    fold_in, squared_error, parameter_variance = FoldIn(model), 0.0, 0.0
    scores, actual = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for user_row in users.tolist():
        learned, held_out = ratings.of_user(user_row), holdout.of_user(user_row)
        is_known = model.item_counts[holdout.item_rows[held_out]] > 0
        item_rows = holdout.item_rows[held_out][is_known]
        actual.append(holdout.values[held_out][is_known])
        side = fold_in.fold_in(ratings.item_rows[learned], ratings.values[learned])
        scores.append(fold_in.scores(side, item_rows)[0])
        values, variances = fold_in.predict(side, item_rows)
        squared_error += float(((actual[-1] - values).astype(np.float64) ** 2).sum())
        parameter_variance += float((variances.astype(np.float64) - model.noise_variance).sum())
    return squared_error, parameter_variance, np.concatenate(scores), np.concatenate(actual)


@njit(void(*PART, READ_VECTOR, READ_MATRIX, MATRIX64, float64[:, :, ::1]), nogil=True, cache=True)
def add_power_sums(
    start: int, end: int, part: int, bias: Vector32, factors: Matrix32, sums: Matrix64, products: Matrix64
) -> None:
    """Adds sum x_u and the upper triangle of sum x_u x_u', x_u = [b_u, p_u], over some rows, to a part's sums.

    bias [n]   factors [n, k]   sums [n_parts, k + 1]   products [n_parts, k + 1, k + 1]
    Four users at a time: each number of the triangle is loaded and stored a fourth as often.
    """
    k = factors.shape[1]
    x = np.zeros((4, k + 1))
    waiting = 0
    for row in range(start, end):
        x[waiting, 0] = bias[row]
        for f in range(k):
            x[waiting, f + 1] = factors[row, f]
        for f in range(k + 1):
            sums[part, f] += x[waiting, f]
        waiting += 1
        if waiting == 4:
            add_products(x, 1.0, products[part])
            waiting = 0
    if waiting > 0:
        x[waiting:] = 0.0
        add_products(x, 1.0, products[part])
