"""The kernel behind `app.engine.crowd.crowd_prior`."""

import numpy as np
from numba import float32, float64, njit, void
from numba.core.types import Array

from app.engine.arrays import Matrix32, Matrix64, Vector64

READ_MATRIX = Array(float32, 2, "C", readonly=True)
READ_VECTOR64 = Array(float64, 1, "C", readonly=True)


@njit(void(READ_MATRIX, READ_VECTOR64, float64[:, ::1]), nogil=True, cache=True)
def add_outer_products(rows: Matrix32, mean: Vector64, scatter: Matrix64) -> None:
    """Adds sum over rows of (row - mean)(row - mean)'.   rows [n, k]   mean [k]   scatter [k, k]: added to"""
    n, k = rows.shape
    centred = np.empty(k)
    for row in range(n):
        for f in range(k):
            centred[f] = rows[row, f] - mean[f]
        for i in range(k):
            for j in range(k):
                scatter[i, j] += centred[i] * centred[j]
