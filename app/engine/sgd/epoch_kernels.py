"""Kernels before and after an epoch: random first vectors, rows copied in and out of the grid, the hold-out error."""

import math

from numba import float32, float64, int32, int64, njit, uint64, void

from app.engine.arrays import Matrix32, RatingColumns, Rows, Vector32, Vector64
from app.engine.numba_types import MATRIX, PART, RATINGS, READ_MATRIX, READ_PARAMETERS, READ_ROWS, VECTOR64, group
from app.engine.simd.lanes import FAST_MATH, LANE_BYTES, LANES, prefetch_line
from app.engine.splitmix64 import FIRST_MIX, GOLDEN, SECOND_MIX

_AHEAD = 12
"""Ratings between prefetching two vectors and multiplying them."""


@njit(
    void(*PART, RATINGS, float32, float32, group(READ_ROWS, READ_ROWS), READ_PARAMETERS, VECTOR64),
    nogil=True,
    cache=True,
    fastmath=set(FAST_MATH),
)
def sum_squared_errors(
    start: int,
    end: int,
    part: int,
    ratings: RatingColumns,
    scale: float,
    mean: float,
    positions: tuple[Rows, Rows],
    parameters: tuple[Matrix32, Matrix32, Vector32, Vector32],
    sums: Vector64,
) -> None:
    """sums[part]: sum of (r / scale - mean - b_u - b_i - p.q)^2 over the ratings from start to end.

    ratings: user rows, item rows, values [n]   positions: of each user row and item row in the parameters
    """
    user_rows, item_rows, values = ratings
    user_positions, item_positions = positions
    user_factors, item_factors, user_bias, item_bias = parameters
    total, divisor = 0.0, float32(1) / scale
    k = user_factors.shape[1]
    for at in range(start, end):
        soon = min(at + _AHEAD, end - 1)
        item_line = item_factors.ctypes.data + int64(item_positions[item_rows[soon]]) * k * 4
        user_line = user_factors.ctypes.data + int64(user_positions[user_rows[soon]]) * k * 4
        for line in range(k // LANES):
            prefetch_line(item_line + line * LANE_BYTES)
            prefetch_line(user_line + line * LANE_BYTES)
        user, item = user_positions[user_rows[at]], item_positions[item_rows[at]]
        dot = float32(0)
        for f in range(k):
            dot += user_factors[user, f] * item_factors[item, f]
        error = values[at] * divisor - mean - user_bias[user] - item_bias[item] - dot
        total += float64(error) * float64(error)
    sums[part] = total


@njit(void(*PART, READ_MATRIX, READ_ROWS, float32, MATRIX), nogil=True, cache=True)
def copy_rows(start: int, end: int, _part: int, source: Matrix32, rows: Rows, factor: float, target: Matrix32) -> None:
    """target[t] = factor source[rows[t]] for t from start to end, zeros for row -1; surplus columns stay as they are.

    source [n, a]   rows [m]   target [m, b]
    """
    k = min(source.shape[1], target.shape[1])
    for row in range(start, end):
        if rows[row] < 0:
            target[row] = 0.0
            continue
        for f in range(k):
            target[row, f] = factor * source[rows[row], f]


@njit(void(*PART, int64, int64, float32, MATRIX), nogil=True, cache=True)
def draw(start: int, end: int, _part: int, seed: int, k: int, deviation: float, target: Matrix32) -> None:
    """Numbers of mean zero and this standard deviation in the first k columns of rows start to end.

    Uniform, since nothing but their size matters: they are small beside what is learned. Each is a function of the
    seed and its own position alone: the high bits of `splitmix64.mixed`.   target [n, n_columns]
    """
    reach = float32(deviation * math.sqrt(3.0) / 2.0**31)
    for row in range(start, end):
        for f in range(k):
            z = uint64(seed) + (uint64(row) * uint64(k) + uint64(f) + uint64(1)) * GOLDEN
            z = (z ^ (z >> uint64(30))) * FIRST_MIX
            z = (z ^ (z >> uint64(27))) * SECOND_MIX
            target[row, f] = float32(int32(z >> uint64(32))) * reach
