"""The kernels of the Gibbs sampler: draws of many small Gaussian vectors, each from its own stream of random numbers.

The vector x of a row, given its ratings r_t and the vectors y_t of the rows of the other side (Salakhutdinov & Mnih
2008, eq. 11-13; the prior mean of each row as in Simm et al. 2017):

    A = L + sum_t a_t y_t y_t'        x ~ Normal(A^-1 (L m + sum_t a_t y_t r_t), A^-1)

L: precision of the prior, m: its mean for this row, a_t: precision of the noise, the product of the two rows' weights.
Every vector has COLUMNS numbers, a constant to the compiler, so that rows of the matrices are whole registers. That is
why the Cholesky solve here is not the one of `app.engine.fold_in.cholesky`, which is for any size and gives other bits.
"""

import math
from typing import Any

import numpy as np
from numba import float32, float64, int64, njit, uint64, void

from app.engine.arrays import Matrix32, Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.bayes.gram import COLUMNS, sum_products
from app.engine.numba_types import READ_MATRIX, READ_MATRIX64, READ_OFFSETS, READ_ROWS, READ_VECTOR
from app.engine.splitmix64 import GOLDEN, mixed

_FLUSH = 1024
"""Ratings summed in single precision before the sum is added to one in double precision."""
_TO_UNIT = 2.0**-53


@njit(void(uint64, uint64, float64[::1]), nogil=True, cache=True)
def draw_normals(key: Any, row: Any, normals: Vector64) -> None:
    """Standard normal numbers of one row: SplitMix64 seeded by key and row, and Box & Muller 1958.

    normals: overwritten; an even number of them
    """
    state = mixed(key ^ mixed(row + GOLDEN))
    for at in range(0, normals.size, 2):
        state += GOLDEN
        first = (float64(mixed(state) >> np.uint64(11)) + 1.0) * _TO_UNIT  # above 0, for the logarithm
        state += GOLDEN
        angle = 2.0 * math.pi * (float64(mixed(state) >> np.uint64(11)) * _TO_UNIT)
        radius = math.sqrt(-2.0 * math.log(first))
        normals[at] = radius * math.cos(angle)
        normals[at + 1] = radius * math.sin(angle)


@njit(
    float64(
        READ_ROWS, READ_VECTOR, float32, READ_MATRIX, READ_VECTOR, int64, int64,
        float32[:, ::1], float32[::1], float64[:, ::1], float64[::1],
    ),
    nogil=True, cache=True, fastmath={"contract"},
)  # fmt: skip
def _sum_up(
    others: Rows,
    values: Vector32,
    mean: float,
    other_vectors: Matrix32,
    other_weights: Vector32,
    start: int,
    end: int,
    part: Matrix32,
    part_product: Vector32,
    gram: Matrix64,
    product: Vector64,
) -> float:
    """gram = sum w y y', product = sum w y r over the ratings start..end, and the sum of r^2, r = value - mean.

    part, part_product: buffers   gram [COLUMNS, COLUMNS], product [COLUMNS]: overwritten
    """
    gram[:, :] = 0.0
    product[:] = 0.0
    squares = 0.0
    for first in range(start, end, _FLUSH):
        last = min(first + _FLUSH, end)
        sum_products(
            other_vectors.ctypes.data, other_weights.ctypes.data, others.ctypes.data, values.ctypes.data,
            first, last, mean, part.ctypes.data, part_product.ctypes.data,
        )  # fmt: skip
        for f in range(COLUMNS):
            product[f] += float64(part_product[f])
            for g in range(COLUMNS):
                gram[f, g] += float64(part[f, g])
        for t in range(first, last):
            rest = values[t] - mean
            squares += float64(rest * rest)
    return squares


@njit(void(float64[:, ::1]), nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _factorise(matrix: Matrix64) -> None:
    """The upper triangle of A becomes U with U'U = A; the lower one becomes undefined."""
    for i in range(COLUMNS):
        for p in range(i):
            above = matrix[p, i]
            for j in range(COLUMNS):
                matrix[i, j] -= above * matrix[p, j]
        scale = 1.0 / math.sqrt(matrix[i, i])
        for j in range(COLUMNS):
            matrix[i, j] *= scale


@njit(void(float64[:, ::1], float64[::1]), nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _solve_transposed(upper: Matrix64, vector: Vector64) -> None:
    """vector becomes U'^-1 vector."""
    for i in range(COLUMNS):
        solved = vector[i] / upper[i, i]
        for j in range(i + 1, COLUMNS):
            vector[j] -= solved * upper[i, j]
        vector[i] = solved


@njit(void(float64[:, ::1], float64[::1]), nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _solve_upper(upper: Matrix64, vector: Vector64) -> None:
    """vector becomes U^-1 vector."""
    for i in range(COLUMNS - 1, -1, -1):
        total = vector[i]
        for j in range(i + 1, COLUMNS):
            total -= upper[i, j] * vector[j]
        vector[i] = total / upper[i, i]


@njit(
    void(
        int64, int64, READ_OFFSETS, READ_ROWS, READ_VECTOR, float32, READ_MATRIX, READ_VECTOR, READ_VECTOR,
        READ_MATRIX64, READ_MATRIX, uint64, float32[:, ::1], float32[:, ::1], float64[::1],
    ),
    nogil=True, cache=True, error_model="numpy", fastmath={"contract"},
)  # fmt: skip
def draw_rows(
    first: int,
    last: int,
    starts: Offsets,
    others: Rows,
    values: Vector32,
    mean: float,
    other_vectors: Matrix32,
    other_weights: Vector32,
    weights: Vector32,
    prior_precision: Matrix64,
    prior_means: Matrix32,
    key: Any,
    drawn: Matrix32,
    expected: Matrix32,
    squared_errors: Vector64,
) -> None:
    """Draws rows first..last; row a's ratings are others[t], values[t] for t from starts[a] to starts[a + 1].

    drawn, expected [n_rows, COLUMNS]: the draw and the mean of what it was drawn from   squared_errors [n_rows]: sum
    (r - mean - x.y)^2 over the ratings of each row with x the draw, if all other_weights are 1. All three are
    overwritten in first..last. A row without ratings is not drawn, since nothing depends on it: drawn is 0 there.
    """
    part, part_product = np.empty((COLUMNS, COLUMNS), np.float32), np.empty(COLUMNS, np.float32)
    gram, product = np.empty((COLUMNS, COLUMNS)), np.empty(COLUMNS)
    upper, centre, noise = np.empty((COLUMNS, COLUMNS)), np.empty(COLUMNS), np.empty(COLUMNS)
    for row in range(first, last):
        if starts[row] == starts[row + 1]:
            expected[row, :] = prior_means[row, :]
            drawn[row, :] = float32(0)
            squared_errors[row] = 0.0
            continue
        squares = _sum_up(
            others, values, mean, other_vectors, other_weights, starts[row], starts[row + 1],
            part, part_product, gram, product,
        )  # fmt: skip
        weight = float64(weights[row])
        for f in range(COLUMNS):
            centre[f] = weight * product[f]
            for g in range(COLUMNS):
                centre[f] += prior_precision[f, g] * float64(prior_means[row, g])
                upper[f, g] = prior_precision[f, g] + weight * gram[f, g]
        _factorise(upper)
        _solve_transposed(upper, centre)
        draw_normals(key, row, noise)
        for f in range(COLUMNS):
            noise[f] += centre[f]
        _solve_upper(upper, centre)
        _solve_upper(upper, noise)
        error = squares
        for f in range(COLUMNS):
            expected[row, f] = float32(centre[f])
            drawn[row, f] = float32(noise[f])
            through = 0.0
            for g in range(COLUMNS):
                through += gram[f, g] * noise[g]
            error += noise[f] * (through - 2.0 * product[f])
        squared_errors[row] = max(error, 0.0)


@njit(
    void(READ_ROWS, READ_ROWS, READ_MATRIX, READ_MATRIX, float64[::1]),
    nogil=True, cache=True, fastmath={"reassoc", "contract"},
)  # fmt: skip
def add_predictions(users: Rows, items: Rows, user_vectors: Matrix32, item_vectors: Matrix32, sums: Vector64) -> None:
    """Adds x_u.y_i of each pair.   users, items [n]   sums [n]: added to"""
    for at in range(users.size):
        dot = float32(0)
        for f in range(COLUMNS):
            dot += user_vectors[users[at], f] * item_vectors[items[at], f]
        sums[at] += float64(dot)
