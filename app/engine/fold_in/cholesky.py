"""Cholesky solves of small systems, in this thread.

LAPACK would wake BLAS threads for a matrix of 65 rows, which costs more in a busy server than it saves, and Numba's own
binding needs SciPy. All inner loops run along rows, so that they vectorise without reordering any sum.

Kernels in other modules inline these, and Numba's cache of those does not notice a change here: after one, remove their
__pycache__ folder.
"""

import math

import numpy as np
from numba import float64, njit, void

from app.engine.arrays import Matrix64, Vector64
from app.engine.numba_types import READ_MATRIX64


@njit(void(float64[:, ::1]), nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def factorise(matrix: Matrix64) -> None:
    """Cholesky in place: the upper triangle of a positive definite matrix A becomes U with U'U = A.

    Row i of U from the rows above it, four at a time (Golub & Van Loan 2013, section 4.2.5, on rows); n^3 / 3 flop. The
    lower triangle is neither read nor written. A matrix that is not positive definite gives NaN on the diagonal.
    """
    n = matrix.shape[0]
    row = np.empty(n)
    for i in range(n):
        for j in range(i, n):
            row[j] = matrix[i, j]
        for p in range(0, i - 3, 4):
            a, b, c, d = matrix[p, i], matrix[p + 1, i], matrix[p + 2, i], matrix[p + 3, i]
            for j in range(i, n):
                above = (a * matrix[p, j] + b * matrix[p + 1, j]) + (c * matrix[p + 2, j] + d * matrix[p + 3, j])
                row[j] -= above
        for p in range(i - i % 4, i):
            a = matrix[p, i]
            for j in range(i, n):
                row[j] -= a * matrix[p, j]
        pivot = math.sqrt(row[i])
        for j in range(i, n):
            matrix[i, j] = row[j] / pivot


@njit(void(READ_MATRIX64, float64[::1]), nogil=True, cache=True)
def solve_transposed(upper: Matrix64, vector: Vector64) -> None:
    """vector becomes U'^-1 vector, in place: forward substitution."""
    n = vector.size
    for i in range(n):
        vector[i] /= upper[i, i]
        for j in range(i + 1, n):
            vector[j] -= vector[i] * upper[i, j]


@njit(void(READ_MATRIX64, float64[::1]), nogil=True, cache=True, fastmath={"reassoc", "contract"})
def solve_upper(upper: Matrix64, vector: Vector64) -> None:
    """vector becomes U^-1 vector, in place: back substitution."""
    n = vector.size
    for i in range(n - 1, -1, -1):
        total = vector[i]
        for j in range(i + 1, n):
            total -= upper[i, j] * vector[j]
        vector[i] = total / upper[i, i]


@njit(void(READ_MATRIX64, float64[:, ::1]), nogil=True, cache=True)
def invert_positive(matrix: Matrix64, inverse: Matrix64) -> None:
    """inverse, overwritten, becomes that of a positive definite matrix; symmetric to the last bit."""
    n = matrix.shape[0]
    upper = matrix.copy()
    factorise(upper)
    for column in range(n):
        inverse[column, :] = 0.0
        inverse[column, column] = 1.0
        solve_transposed(upper, inverse[column])
        solve_upper(upper, inverse[column])
    for i in range(n):
        for j in range(i):
            inverse[i, j] = inverse[j, i]


@njit(void(float64[:, ::1], float64, float64[:, ::1]), nogil=True, cache=True, fastmath={"contract"})
def add_products(y: Matrix64, precision: float, upper: Matrix64) -> None:
    """Adds precision * sum over the four rows of y y' to the upper triangle."""
    n = upper.shape[0]
    for i in range(n):
        a, b, c, d = precision * y[0, i], precision * y[1, i], precision * y[2, i], precision * y[3, i]
        for j in range(i, n):
            upper[i, j] += (a * y[0, j] + b * y[1, j]) + (c * y[2, j] + d * y[3, j])


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
