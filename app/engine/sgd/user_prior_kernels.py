"""The kernel behind `app.engine.sgd.user_prior.crowd_prior`."""

import numpy as np
from numba import float64, int64, njit, void

from app.engine.arrays import Matrix32, Matrix64, Vector32
from app.engine.fold_in.cholesky import add_products
from app.engine.numba_types import READ_MATRIX, READ_VECTOR


@njit(
    void(int64, int64, int64, READ_VECTOR, READ_MATRIX, float64[:, ::1], float64[:, :, ::1]),
    nogil=True,
    cache=True,
)
def add_moments(
    start: int,
    end: int,
    part: int,
    bias: Vector32,
    factors: Matrix32,
    sums: Matrix64,
    products: Matrix64,
) -> None:
    """Adds sum x_u and the upper triangle of sum x_u x_u', x_u = [b_u, p_u], over some rows, to a part's sums.

    bias [n]   factors [n, k]   sums [n_parts, k + 1]   products [n_parts, k + 1, k + 1]
    Four users at a time: each number of the triangle is fetched and put back a fourth as often.
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
