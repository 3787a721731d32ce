"""Small symmetric systems, solved in this thread.

LAPACK would wake BLAS threads for a matrix of 65 rows and cost more in a busy server than it saves, and Numba's own
binding needs SciPy. All inner loops run along rows, so that they vectorise without reordering any sum.
"""

import math

from numba import float64, njit, void
from numba.core.types import Array

from app.engine.arrays import Matrix64, Vector64

READ_MATRIX64 = Array(float64, 2, "C", readonly=True)


@njit(void(float64[:, ::1]), nogil=True, cache=True, error_model="numpy")
def factorise(matrix: Matrix64) -> None:
    """Cholesky in place: the upper triangle of a positive definite matrix A becomes U with U'U = A.

    Row by row (Golub & Van Loan 2013, algorithm 4.2.2); n^3 / 3 flop. The lower triangle is neither read nor written.
    A matrix that is not positive definite gives NaN on the diagonal.
    """
    n = matrix.shape[0]
    for i in range(n):
        pivot = math.sqrt(matrix[i, i])
        for j in range(i, n):
            matrix[i, j] /= pivot
        for below in range(i + 1, n):
            factor = matrix[i, below]
            for j in range(below, n):
                matrix[below, j] -= factor * matrix[i, j]


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
