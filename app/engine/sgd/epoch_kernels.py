"""Kernels at the edges of an epoch: vectors brought in and out of the grid's order, and the error on a hold-out."""

import math

from numba import float32, float64, int32, int64, njit, uint64, void

from app.engine.arrays import Matrix32, Rows, Vector32, Vector64
from app.engine.numba_types import READ_MATRIX, READ_ROWS, READ_VECTOR
from app.engine.simd.lanes import FAST_MATH, LANE_BYTES, LANES, prefetch_line

_AHEAD = 12
"""Ratings between asking for two vectors and multiplying them."""


@njit(
    void(
        *(int64, int64, int64, READ_ROWS, READ_ROWS, READ_VECTOR, float32, float32, READ_ROWS, READ_ROWS),
        *(READ_MATRIX, READ_MATRIX, READ_VECTOR, READ_VECTOR, float64[::1]),
    ),
    nogil=True,
    cache=True,
    fastmath=set(FAST_MATH),
)
def sum_squared_errors(
    start: int,
    end: int,
    part: int,
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
    scale: float,
    mean: float,
    user_place_of: Rows,
    item_place_of: Rows,
    user_factors: Matrix32,
    item_factors: Matrix32,
    user_bias: Vector32,
    item_bias: Vector32,
    sums: Vector64,
) -> None:
    """sums[part]: sum of (r / scale - mean - b_u - b_i - p.q)^2 over the ratings from start to end.

    rows, values [n]   place_of: places of the rows, by which biases and factors [n_places, n_columns] go
    """
    total, divisor = 0.0, float32(1) / scale
    k = user_factors.shape[1]
    for at in range(start, end):
        soon = min(at + _AHEAD, end - 1)
        item_line = item_factors.ctypes.data + int64(item_place_of[item_rows[soon]]) * k * 4
        user_line = user_factors.ctypes.data + int64(user_place_of[user_rows[soon]]) * k * 4
        for line in range(k // LANES):
            prefetch_line(item_line + line * LANE_BYTES)
            prefetch_line(user_line + line * LANE_BYTES)
        user, item = user_place_of[user_rows[at]], item_place_of[item_rows[at]]
        dot = float32(0)
        for f in range(k):
            dot += user_factors[user, f] * item_factors[item, f]
        error = values[at] * divisor - mean - user_bias[user] - item_bias[item] - dot
        total += float64(error) * float64(error)
    sums[part] = total


@njit(void(int64, int64, int64, READ_MATRIX, READ_ROWS, float32, float32[:, ::1]), nogil=True, cache=True)
def copy_rows(start: int, end: int, _part: int, source: Matrix32, rows: Rows, factor: float, target: Matrix32) -> None:
    """target[t] = factor source[rows[t]] for t from start to end, zeros for row -1; what one is wider by is left alone.

    source [n, a]   rows [m]   target [m, b]
    """
    k = min(source.shape[1], target.shape[1])
    for row in range(start, end):
        if rows[row] < 0:
            target[row] = 0.0
            continue
        for f in range(k):
            target[row, f] = factor * source[rows[row], f]


@njit(void(int64, int64, int64, int64, int64, float32, float32[:, ::1]), nogil=True, cache=True)
def draw(start: int, end: int, _part: int, seed: int, k: int, deviation: float, target: Matrix32) -> None:
    """Numbers of mean zero and this standard deviation in the first k columns of rows start to end.

    Uniform, since nothing but their size matters: they are small beside what is learned. Each is a function of the
    seed and its own place alone (SplitMix64, Steele, Lea & Flood 2014).   target [n, n_columns]
    """
    reach = float32(deviation * math.sqrt(3.0) / 2.0**31)
    for row in range(start, end):
        for f in range(k):
            z = uint64(seed) + (uint64(row) * uint64(k) + uint64(f) + uint64(1)) * uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
            target[row, f] = float32(int32(z >> uint64(32))) * reach
