"""The kernel behind `app.engine.crowd.crowd_prior`."""

import numpy as np
from numba import float32, float64, njit, void
from numba.core.types import Array

from app.engine.arrays import Matrix32, Matrix64, Vector64

READ_MATRIX = Array(float32, 2, "C", readonly=True)
READ_VECTOR64 = Array(float64, 1, "C", readonly=True)


@njit(void(READ_MATRIX, READ_VECTOR64, float64[:, ::1]), nogil=True, cache=True)
def add_outer_products(rows: Matrix32, mean: Vector64, scatter: Matrix64) -> None:
    """Adds sum over rows of (row - mean)(row - mean)'.   rows [n, k]   mean [k]   scatter [k, k]: added to

    Four rows at a time: each number of the scatter is fetched and put back a fourth as often.
    """
    n, k = rows.shape
    a, b, c, d = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    for first in range(0, n, 4):
        for f in range(k):
            a[f] = rows[first, f] - mean[f]
            b[f] = rows[first + 1, f] - mean[f] if first + 1 < n else 0.0
            c[f] = rows[first + 2, f] - mean[f] if first + 2 < n else 0.0
            d[f] = rows[first + 3, f] - mean[f] if first + 3 < n else 0.0
        for i in range(k):
            for j in range(k):
                scatter[i, j] += (a[i] * a[j] + b[i] * b[j]) + (c[i] * c[j] + d[i] * d[j])
