"""The kernels of the Gaussian belief about one user.

With y_i = [1, q_i], d_i = r_ui - mean - b_i, prior x_u ~ Normal(m, C) and noise variance s2 (Bishop 2006, 3.50-3.51):

    A_u = C^-1 + (1/s2) sum_i y_i y_i'      A_u x_u = C^-1 m + (1/s2) sum_i y_i d_i
"""

import math

import numpy as np
from numba import float32, float64, int64, njit, void

from app.engine.arrays import Mask, Matrix32, Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.fold_in.cholesky import factorise, solve_transposed, solve_upper
from app.engine.numba_types import (
    READ_MASK,
    READ_MATRIX,
    READ_MATRIX64,
    READ_OFFSET_TABLE,
    READ_ROWS,
    READ_VECTOR,
    READ_VECTOR64,
)


@njit(void(float64[:, ::1], float64, float64[:, ::1]), nogil=True, cache=True, fastmath={"contract"})
def add_products(y: Matrix64, precision: float, upper: Matrix64) -> None:
    """Adds precision * sum over the four rows of y y' to the upper triangle."""
    n = upper.shape[0]
    for i in range(n):
        a, b, c, d = precision * y[0, i], precision * y[1, i], precision * y[2, i], precision * y[3, i]
        for j in range(i, n):
            upper[i, j] += (a * y[0, j] + b * y[1, j]) + (c * y[2, j] + d * y[3, j])


@njit(
    void(
        READ_ROWS,
        READ_VECTOR,
        READ_MATRIX,
        READ_VECTOR,
        READ_VECTOR,
        READ_MASK,
        float64,
        float64,
        float64,
        float64,
        READ_MATRIX64,
        READ_VECTOR64,
        float64[:, ::1],
        float64[::1],
    ),
    nogil=True,
    cache=True,
)
def solve_user(
    item_rows: Rows,
    values: Vector32,
    item_factors: Matrix32,
    item_bias: Vector32,
    item_noise: Vector32,
    is_known: Mask,
    mean: float,
    precision: float,
    unknown_bias: float,
    unknown_precision: float,
    prior_precision: Matrix64,
    prior_pull: Vector64,
    upper: Matrix64,
    solution: Vector64,
) -> None:
    """x_u and the Cholesky factor U of A_u from one user's n ratings.

    item_rows, values [n]   item_factors [n_items, k]   item_noise [n_items]: noise variance of an item's ratings, times
    precision   prior_precision = C^-1 [k+1, k+1]   prior_pull = C^-1 m [k+1]
    upper [k+1, k+1]: overwritten with U in its upper triangle   solution [k+1]: overwritten
    Row -1 and items that are not known say something of b_u alone: y = [1, 0], with unknown_bias and unknown_precision.
    """
    k = item_factors.shape[1]
    for i in range(k + 1):
        solution[i] = prior_pull[i]
        for j in range(i, k + 1):
            upper[i, j] = prior_precision[i, j]
    y = np.zeros((4, k + 1))  # four ratings at a time: one pass over the matrix for the four
    waiting = 0
    for t in range(item_rows.size):
        row = item_rows[t]
        if row < 0 or not is_known[row]:
            upper[0, 0] += unknown_precision
            solution[0] += unknown_precision * (float64(values[t]) - mean - unknown_bias)
            continue
        root = 1.0 / math.sqrt(float64(item_noise[row]))
        y[waiting, 0] = root
        for f in range(k):
            y[waiting, f + 1] = root * item_factors[row, f]
        weighted = precision * root * (float64(values[t]) - mean - float64(item_bias[row]))
        for i in range(k + 1):
            solution[i] += weighted * y[waiting, i]
        waiting += 1
        if waiting == 4:
            add_products(y, precision, upper)
            waiting = 0
    if waiting > 0:
        y[waiting:] = 0.0
        add_products(y, precision, upper)
    factorise(upper)
    solve_transposed(upper, solution)
    solve_upper(upper, solution)


@njit(float64(READ_MATRIX64, READ_MATRIX64), nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def trace_of_solved(upper: Matrix64, matrix: Matrix64) -> float:
    """tr(A^-1 M) for A = U'U and a symmetric M, both [n, n]: all columns of M are solved for at once, row by row."""
    n, solved, total = upper.shape[0], matrix.copy(), 0.0
    for i in range(n):
        inverse = 1.0 / upper[i, i]
        for column in range(n):
            solved[i, column] *= inverse
        for j in range(i + 1, n):
            for column in range(n):
                solved[j, column] -= upper[i, j] * solved[i, column]
    for i in range(n - 1, -1, -1):
        inverse = 1.0 / upper[i, i]
        for j in range(i + 1, n):
            for column in range(i + 1):
                solved[i, column] -= upper[i, j] * solved[j, column]
        for column in range(i + 1):
            solved[i, column] *= inverse
        total += solved[i, i]
    return total


@njit(
    void(
        READ_VECTOR,
        float64,
        READ_MATRIX64,
        READ_ROWS,
        READ_MATRIX,
        READ_VECTOR,
        READ_VECTOR,
        READ_MASK,
        float64,
        float64,
        float64,
        float64,
        float32[::1],
        float32[::1],
    ),
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},
)
def predict_items(
    factors: Vector32,
    bias: float,
    upper: Matrix64,
    item_rows: Rows,
    item_factors: Matrix32,
    item_bias: Vector32,
    item_noise: Vector32,
    is_known: Mask,
    mean: float,
    noise_variance: float,
    unknown_bias: float,
    unknown_variance: float,
    values: Vector32,
    variances: Vector32,
) -> None:
    """mean + b_u + b_i + p.q_i, and its variance s2 h_i + y' A_u^-1 y = s2 h_i + |U'^-1 y|^2, of n items.

    factors [k]   upper [k+1, k+1]: U with U'U = A_u   item_noise [n_items]: h   item_rows [n];
    -1 and items that are not known have y = [1, 0],
    unknown_bias, and unknown_variance more   values, variances [n], overwritten
    """
    k = item_factors.shape[1]
    y = np.empty(k + 1)
    for t in range(item_rows.size):
        row = item_rows[t]
        value, variance = mean + bias, noise_variance
        y[:] = 0.0
        y[0] = 1.0
        if row < 0 or not is_known[row]:
            value += unknown_bias
            variance += unknown_variance
        else:
            value += item_bias[row]
            variance *= float64(item_noise[row])
            for f in range(k):
                value += factors[f] * item_factors[row, f]
                y[f + 1] = item_factors[row, f]
        solve_transposed(upper, y)
        for i in range(k + 1):
            variance += y[i] * y[i]
        values[t] = float32(value)
        variances[t] = float32(variance)


@njit(
    void(
        *(READ_ROWS, READ_ROWS, READ_VECTOR, READ_MATRIX64, READ_VECTOR64, READ_MATRIX, READ_VECTOR, READ_VECTOR),
        *(READ_MASK, float64, float64, float64, float64, READ_MATRIX, READ_MATRIX64, float64[::1], float64[:, ::1]),
    ),
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},
)
def share_out(
    item_rows: Rows,
    rated_rows: Rows,
    values: Vector32,
    upper: Matrix64,
    prior_pull: Vector64,
    item_factors: Matrix32,
    item_bias: Vector32,
    item_noise: Vector32,
    is_known: Mask,
    mean: float,
    noise_variance: float,
    unknown_bias: float,
    unknown_variance: float,
    hints: Matrix32,
    hint_precision: Matrix64,
    prior: Vector64,
    shares: Matrix64,
) -> None:
    """What the prior and each of m ratings add to the scores of n items: y_j'A_u^-1 of what each pulls.

    prior_pull [k+1]: of the prior but for hints   hints [m, k+1] of what was rated
    hint_precision [k+1, k+1]: what a hint is multiplied by   prior [n], shares [n, m], overwritten
    the rest: see `solve_user` and `predict_items`
    """
    size = prior_pull.size
    z, hinted = np.empty(size), np.empty(size)
    for j in range(item_rows.size):
        row = item_rows[j]
        z[:] = 0.0
        z[0] = 1.0
        prior[j] = mean + unknown_bias
        if row >= 0 and is_known[row]:
            prior[j] = mean + item_bias[row]
            for f in range(size - 1):
                z[f + 1] = item_factors[row, f]
        solve_transposed(upper, z)
        solve_upper(upper, z)
        for i in range(size):
            prior[j] += z[i] * prior_pull[i]
            hinted[i] = 0.0
            for f in range(size):
                hinted[i] += hint_precision[i, f] * z[f]
        for t in range(rated_rows.size):
            rated = rated_rows[t]
            if rated < 0 or not is_known[rated]:
                doubt = noise_variance + unknown_variance
                shares[j, t] = z[0] * (float64(values[t]) - mean - unknown_bias) / doubt
                continue
            dot, hint = z[0], hinted[0] * hints[t, 0]
            for f in range(1, size):
                dot += z[f] * item_factors[rated, f - 1]
                hint += hinted[f] * hints[t, f]
            surprise = float64(values[t]) - mean - float64(item_bias[rated])
            shares[j, t] = dot * surprise / (noise_variance * float64(item_noise[rated])) + hint


@njit(
    void(
        *(int64, int64, int64, READ_OFFSET_TABLE, READ_OFFSET_TABLE, READ_ROWS, READ_VECTOR, READ_ROWS, READ_VECTOR),
        *(READ_MATRIX, READ_VECTOR, READ_VECTOR, READ_MASK, float64, float64, float64, float64),
        *(READ_MATRIX64, READ_VECTOR64, float64[:, ::1]),
    ),
    nogil=True,
    cache=True,
)
def add_held_out_errors(
    start: int,
    end: int,
    part: int,
    seen: Offsets,
    asked: Offsets,
    seen_items: Rows,
    seen_values: Vector32,
    asked_items: Rows,
    asked_values: Vector32,
    item_factors: Matrix32,
    item_bias: Vector32,
    item_noise: Vector32,
    is_known: Mask,
    mean: float,
    noise_variance: float,
    unknown_bias: float,
    unknown_variance: float,
    prior_precision: Matrix64,
    prior_pull: Vector64,
    sums: Matrix64,
) -> None:
    """Adds (r - r_hat)^2, y' A_u^-1 y and 1 for each asked rating of a known item to the sums of a part.

    seen, asked [2, n_users]: where the ratings of each user that are folded in, and asked, start and end
    sums [n_parts, 3]   the rest: see `solve_user` and `predict_items`
    """
    size = prior_pull.size
    upper, solution, factors = np.empty((size, size)), np.empty(size), np.empty(size - 1, np.float32)
    for user in range(start, end):
        items, values = seen_items[seen[0, user] : seen[1, user]], seen_values[seen[0, user] : seen[1, user]]
        rest = (1.0 / noise_variance, unknown_bias, 1.0 / (noise_variance + unknown_variance))
        solve_user(
            *(items, values, item_factors, item_bias, item_noise, is_known, mean, *rest),
            *(prior_precision, prior_pull, upper, solution),
        )
        factors[:] = solution[1:]
        asked_of_user = asked_items[asked[0, user] : asked[1, user]]
        predicted, variances = np.empty(asked_of_user.size, np.float32), np.empty(asked_of_user.size, np.float32)
        predict_items(
            *(factors, solution[0], upper, asked_of_user, item_factors, item_bias, item_noise, is_known),
            *(mean, noise_variance, unknown_bias, unknown_variance, predicted, variances),
        )
        for t in range(asked_of_user.size):
            if asked_of_user[t] >= 0 and is_known[asked_of_user[t]]:
                error = float64(asked_values[asked[0, user] + t]) - predicted[t]
                sums[part, 0] += error * error
                sums[part, 1] += variances[t] - noise_variance
                sums[part, 2] += 1.0
