"""The kernel that measures a model in the middle of a fit."""

from numba import float32, float64, int32, njit
from numba.core.types import Array

from app.engine.arrays import Matrix32, Rows, Vector32
from app.engine.lanes import FAST_MATH

READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_MATRIX = Array(float32, 2, "C", readonly=True)


@njit(
    float64(READ_ROWS, READ_ROWS, READ_VECTOR, float32, READ_MATRIX, READ_MATRIX, READ_VECTOR, READ_VECTOR),
    nogil=True,
    cache=True,
    fastmath=set(FAST_MATH),
)
def sum_squared_errors(
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
    mean: float,
    user_factors: Matrix32,
    item_factors: Matrix32,
    user_bias: Vector32,
    item_bias: Vector32,
) -> float:
    """Sum of (r - mean - b_u - b_i - p.q)^2.   rows, values [n]   factors [n_rows, k]   biases [n_rows]"""
    total = 0.0
    k = user_factors.shape[1]
    for at in range(user_rows.size):
        user, item = user_rows[at], item_rows[at]
        dot = float32(0)
        for f in range(k):
            dot += user_factors[user, f] * item_factors[item, f]
        error = values[at] - mean - user_bias[user] - item_bias[item] - dot
        total += float64(error) * float64(error)
    return total
