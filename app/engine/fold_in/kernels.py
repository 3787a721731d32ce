"""The kernels of folding in: Bayesian linear regression of one user's ratings on item vectors.

With y_i = [1, q_i], d_i = r_ui - mean - b_i, prior x_u ~ Normal(m, C) and noise variance s2 h_i of ratings of item i
(Bishop 2006, eq. 3.50-3.51):

    A_u = C^-1 + sum_i y_i y_i' / (s2 h_i)      A_u x_u = C^-1 m + sum_i y_i d_i / (s2 h_i)

An unknown item has y = [1, 0], the bias and the variance of an average item. Every kernel takes the model as the record
of `KernelModel`; user: factors [k], bias, upper [k+1, k+1] with U'U = A_u, noise_scale; item_rows: -1 for unknown.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int64, njit, void

from app.engine.arrays import Mask, Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.data.features import DAMPING
from app.engine.fold_in.cholesky import add_products, factorise, solve_transposed, solve_upper, trace_of_solved
from app.engine.fold_in.kernel_model import (
    MODEL,
    has_implicit_prior,
    implicit_prior_of,
    item_counts_of,
    items_of,
    population_prior_of,
)
from app.engine.numba_types import (
    READ_MATRIX64,
    READ_OFFSET_TABLE,
    READ_OFFSETS,
    READ_ROWS,
    READ_VECTOR,
    READ_VECTOR64,
)

NOISE_RATINGS = 30.0
"""Ratings that the model's noise variance weighs against a user's own residuals (see `app.engine.bayes.gibbs`)."""
IMPLICIT_RATINGS = 150.0
"""Ratings with which a user's prior precision is halfway from the population prior's to the implicit prior's."""


@njit(nogil=True)
def item_vector(items: Any, row: int, y: Vector64) -> bool:
    """y = [1, q_i], or [1, 0, ...] of an unknown item; returns whether the item is known."""
    y[0] = 1.0
    if row < 0 or not items.is_known[row]:
        y[1:] = 0.0
        return False
    for f in range(y.size - 1):
        y[f + 1] = items.factors[row, f]
    return True


@njit(void(MODEL, READ_ROWS, float64[:, ::1], boolean[::1]), nogil=True, cache=True)
def item_vectors(model: Any, item_rows: Rows, y: Matrix64, is_known: Mask) -> None:
    """`item_vector` of n rows.   y [n, k + 1], is_known [n]: overwritten"""
    items = items_of(model)
    for t in range(item_rows.size):
        is_known[t] = item_vector(items, item_rows[t], y[t])


@njit(nogil=True)
def solve_user(
    model: Any,
    item_rows: Rows,
    values: Vector32,
    precision: Matrix64,
    information: Vector64,
    upper: Matrix64,
    x: Vector64,
) -> None:
    """x_u and the Cholesky factor U of A_u from n ratings and the prior's C^-1 and C^-1 m.

    values [n]   precision [k+1, k+1]   information [k+1]   upper: overwritten with U in its upper triangle
    x [k+1]: overwritten
    """
    items, it, size = items_of(model), model[0], x.size
    mean, rating_precision = it.mean, 1.0 / it.noise_variance
    unknown_bias, unknown_precision = it.unknown_bias, 1.0 / (it.noise_variance + it.unknown_variance)
    for i in range(size):
        x[i] = information[i]
        for j in range(i, size):
            upper[i, j] = precision[i, j]
    y = np.zeros((4, size))  # four ratings at a time: one pass over the matrix for the four
    n_waiting = 0
    for t in range(item_rows.size):
        row = item_rows[t]
        if row < 0 or not items.is_known[row]:
            upper[0, 0] += unknown_precision
            x[0] += unknown_precision * (float64(values[t]) - mean - unknown_bias)
            continue
        root = 1.0 / math.sqrt(float64(items.noise[row]))
        weighted = rating_precision * root * (float64(values[t]) - mean - float64(items.bias[row]))
        y[n_waiting, 0] = root
        for f in range(size - 1):  # as `item_vector`, whose call takes as long as the loop
            y[n_waiting, f + 1] = root * items.factors[row, f]
        for i in range(size):
            x[i] += weighted * y[n_waiting, i]
        n_waiting += 1
        if n_waiting == 4:
            add_products(y, rating_precision, upper)
            n_waiting = 0
    if n_waiting > 0:
        y[n_waiting:] = 0.0
        add_products(y, rating_precision, upper)
    factorise(upper)
    solve_transposed(upper, x)
    solve_upper(upper, x)


@njit(nogil=True, fastmath={"reassoc", "contract"})
def implicit_prior(model: Any, n: int, factor_sum: Vector64, precision: Matrix64, information: Vector64) -> None:
    """C^-1 and C^-1 m of the prior of a user with n rated items whose implicit factors add up to factor_sum [k+1].

    The mean is n / (n + d) of the way from the population's to the implicit one, the precision n / (n + 150) of the
    way: the implicit prior was learned from users with many ratings and is least sure where there are few.
    """
    implicit, size = implicit_prior_of(model), information.size
    population_precision, population_mean, _ = population_prior_of(model)
    trust, weight = n / (n + DAMPING), n / (n + IMPLICIT_RATINGS)
    root, log = math.sqrt(n + DAMPING), math.log(n + DAMPING)
    mean = np.empty(size)
    for f in range(size):
        implicit_mean = implicit.intercept[f] + factor_sum[f] / root + log * implicit.count_slope[f]
        mean[f] = population_mean[f] + trust * (implicit_mean - population_mean[f])
        information[f] = 0.0
    for f in range(size):
        for g in range(size):
            precision[f, g] = weight * implicit.precision[f, g] + (1.0 - weight) * population_precision[f, g]
            information[f] += precision[f, g] * mean[g]


@njit(nogil=True, fastmath={"reassoc", "contract"})
def noise_scale_of(
    model: Any, item_rows: Rows, values: Vector32, n: int, precision: Matrix64, upper: Matrix64, x: Vector64
) -> float:
    """The user's noise variance by the model's: (v + sum_i E (r_i - y_i'x)^2 / (s2 h_i)) / (v + n), of n known items.

    One step of variational Bayes (Bishop 2006, section 10.3) for a Gamma prior on the user's precision that weighs
    v = NOISE_RATINGS ratings; the expectation is over x ~ Normal(x_u, A^-1). The variances y_i' A^-1 y_i / (s2 h_i) add
    up to tr A^-1 (A - M) = k + 1 - tr A^-1 M, where M is the rest of A: the prior's precision, overwritten here, and
    the contribution of unknown items to b_u.

    The scale widens or narrows intervals only. Weighing the user's ratings by it predicts worse: the item vectors were
    learned from them, so that their residuals look smaller than those of new ratings.
    """
    items, it, k = items_of(model), model[0], x.size - 1
    squared = 0.0
    for t in range(item_rows.size):
        row = item_rows[t]
        if row >= 0:
            residual = float64(values[t]) - it.mean - x[0] - items.bias[row]
            for f in range(k):
                residual -= x[f + 1] * items.factors[row, f]
            squared += residual * residual / items.noise[row]
    precision[0, 0] += (item_rows.size - n) / (it.noise_variance + it.unknown_variance)
    variances = k + 1 - trace_of_solved(upper, precision)
    scale: float = (NOISE_RATINGS + squared / it.noise_variance + variances) / (NOISE_RATINGS + n)
    return scale


@njit(nogil=True)
def n_known(item_rows: Rows) -> int:
    """How many rows are not -1."""
    n = 0
    for row in item_rows:
        n += row >= 0
    return n


@njit(float64(MODEL, READ_ROWS, READ_VECTOR, float64[:, ::1], float64[::1]), nogil=True, cache=True)
def fold_in_user(model: Any, item_rows: Rows, values: Vector32, upper: Matrix64, x: Vector64) -> float:
    """x_u, U and, returned, noise_scale of the user of n ratings.   values [n]   upper, x: overwritten

    With the population prior; with the implicit prior and a noise of the user's own where the model is an average over
    samples and an item is known. Not itself with fastmath: that would change the bits of what LLVM inlines here.
    """
    n, size = n_known(item_rows), x.size
    is_implicit = n > 0 and has_implicit_prior(model)
    precision, _, information = population_prior_of(model)
    if is_implicit:
        factors, factor_sum = implicit_prior_of(model).factors, np.zeros(size)
        for row in item_rows:
            if row >= 0:
                for f in range(size):
                    factor_sum[f] += factors[row, f]
        precision, information = np.empty((size, size)), np.empty(size)
        implicit_prior(model, n, factor_sum, precision, information)
    solve_user(model, item_rows, values, precision, information, upper, x)
    return noise_scale_of(model, item_rows, values, n, precision, upper, x) if is_implicit else 1.0


@njit(
    void(MODEL, READ_VECTOR, float64, READ_MATRIX64, float64, READ_ROWS, float32[::1], float32[::1]),
    nogil=True, cache=True, fastmath={"reassoc", "contract"},
)  # fmt: skip
def predict_items(
    model: Any,
    factors: Vector32,
    bias: float,
    upper: Matrix64,
    noise_scale: float,
    item_rows: Rows,
    values: Vector32,
    variances: Vector32,
) -> None:
    """mean + b_u + b_i + p.q_i, and its variance s2 h_i + y' A_u^-1 y = s2 h_i + |U'^-1 y|^2, of n items.

    s2: of the user's ratings; unknown_variance more for unknown items   values, variances [n]: overwritten
    """
    items, it, k = items_of(model), model[0], factors.size
    start, noise, y = it.mean + bias, it.noise_variance * noise_scale, np.empty(k + 1)
    for t in range(item_rows.size):
        row = item_rows[t]
        value, variance = start, noise
        if item_vector(items, row, y):
            value += items.bias[row]
            variance *= float64(items.noise[row])
            for f in range(k):
                value += factors[f] * items.factors[row, f]
        else:
            value += it.unknown_bias
            variance += it.unknown_variance
        solve_transposed(upper, y)
        for i in range(k + 1):
            variance += y[i] * y[i]
        values[t] = float32(value)
        variances[t] = float32(variance)


@njit(
    boolean(
        *(MODEL, READ_VECTOR, float64, READ_MATRIX64, float64, READ_ROWS),
        *(READ_VECTOR64, READ_OFFSETS, float64[:, ::1]),
    ),
    nogil=True,
    cache=True,
)
def predict_with_intervals(
    model: Any,
    factors: Vector32,
    bias: float,
    upper: Matrix64,
    noise_scale: float,
    item_rows: Rows,
    reach: Vector64,
    buckets: Offsets,
    predictions: Matrix64,
) -> bool:
    """The prediction of each item and both ends of its interval; False, with nothing written, for a row out of range.

    buckets: number of ratings from which each bucket but the first begins   reach [n_buckets]: standard deviations by
    the bucket of the item's ratings   predictions [3, n]: overwritten
    """
    counts, n_items, n = item_counts_of(model), model[0].n_items, item_rows.size
    for row in item_rows:
        if not -1 <= row < n_items:
            return False
    values, variances = np.empty(n, np.float32), np.empty(n, np.float32)
    predict_items(model, factors, bias, upper, noise_scale, item_rows, values, variances)
    for t in range(n):
        bucket, row = 0, item_rows[t]
        while row >= 0 and bucket < buckets.size and buckets[bucket] <= counts[row]:
            bucket += 1
        half = reach[bucket] * math.sqrt(float64(variances[t]))
        predictions[0, t], predictions[1, t], predictions[2, t] = values[t], values[t] - half, values[t] + half
    return True


@njit(
    void(MODEL, READ_MATRIX64, READ_ROWS, READ_ROWS, READ_VECTOR, float64[::1], float64[:, ::1]),
    nogil=True, cache=True, fastmath={"reassoc", "contract"},
)  # fmt: skip
def decompose_scores(
    model: Any, upper: Matrix64, item_rows: Rows, rated_rows: Rows, values: Vector32, prior: Vector64, shares: Matrix64
) -> None:
    """The parts of the scores of n items that come from the prior and from each of the m ratings: y_j'A_u^-1 times
    what each adds to A_u x_u, which is w_i d_i y_i for a rating, plus what its implicit factor adds to C^-1 m.

    values [m]   prior [n], shares [n, m]: overwritten
    """
    items, it, size = items_of(model), model[0], upper.shape[0]
    n, has_implicit = n_known(rated_rows), has_implicit_prior(model)
    precision, _, information = population_prior_of(model)
    implicit_weight = 0.0
    if n > 0 and has_implicit:
        precision, information = np.empty((size, size)), np.empty(size)
        implicit_prior(model, n, np.zeros(size), precision, information)
        implicit_weight = n / (n + DAMPING) / math.sqrt(n + DAMPING)
    z, through = np.empty(size), np.zeros(size)
    for j in range(item_rows.size):
        row = item_rows[j]
        prior[j] = it.mean + (items.bias[row] if item_vector(items, row, z) else it.unknown_bias)
        solve_transposed(upper, z)
        solve_upper(upper, z)
        for i in range(size):
            prior[j] += z[i] * information[i]
            through[i] = 0.0
            for f in range(size):
                through[i] += implicit_weight * precision[i, f] * z[f]
        for t in range(rated_rows.size):
            rated = rated_rows[t]
            if rated < 0 or not items.is_known[rated]:
                noise = it.noise_variance + it.unknown_variance
                shares[j, t] = z[0] * (float64(values[t]) - it.mean - it.unknown_bias) / noise
                continue
            dot = z[0]
            for f in range(1, size):
                dot += z[f] * items.factors[rated, f - 1]
            deviation = float64(values[t]) - it.mean - float64(items.bias[rated])
            shares[j, t] = dot * deviation / (it.noise_variance * float64(items.noise[rated]))
            if has_implicit:
                factors = implicit_prior_of(model).factors
                for f in range(size):
                    shares[j, t] += through[f] * factors[rated, f]


@njit(
    void(
        *(int64, int64, int64, MODEL, READ_OFFSET_TABLE, READ_OFFSET_TABLE),
        *(READ_ROWS, READ_VECTOR, READ_ROWS, READ_VECTOR, float64[:, ::1]),
    ),
    nogil=True,
    cache=True,
)
def add_held_out_errors(
    start: int,
    end: int,
    part: int,
    model: Any,
    known: Offsets,
    held_out: Offsets,
    known_items: Rows,
    known_values: Vector32,
    held_out_items: Rows,
    held_out_values: Vector32,
    sums: Matrix64,
) -> None:
    """Adds (r - r_hat)^2, y' A_u^-1 y and 1 for each held-out rating of a known item to the sums of a part.

    known, held_out [2, n_users]: where the ratings of each user start and end; from the known ones users start..end are
    folded in   sums [n_parts, 3]
    """
    items, noise, size = items_of(model), model[0].noise_variance, model[0].n_factors + 1
    upper, x, factors = np.empty((size, size)), np.empty(size), np.empty(size - 1, np.float32)
    for user in range(start, end):
        own = slice(known[0, user], known[1, user])
        scale = fold_in_user(model, known_items[own], known_values[own], upper, x)
        factors[:] = x[1:]
        rows = held_out_items[held_out[0, user] : held_out[1, user]]
        predicted, variances = np.empty(rows.size, np.float32), np.empty(rows.size, np.float32)
        predict_items(model, factors, x[0], upper, scale, rows, predicted, variances)
        for t in range(rows.size):
            if rows[t] >= 0 and items.is_known[rows[t]]:
                error = float64(held_out_values[held_out[0, user] + t]) - predicted[t]
                sums[part, 0] += error * error
                sums[part, 1] += variances[t] - noise
                sums[part, 2] += 1.0
