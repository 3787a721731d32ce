"""The kernels behind `app.engine.retrieval.brute_force`."""

import math
from typing import Any

from numba import boolean, float32, float64, int32, int64, njit, void

from app.engine.arrays import Matrix32, Rows, Vector32
from app.engine.numba_types import READ_MATRIX, READ_ROWS, READ_VECTOR
from app.engine.simd.float_vectors import wide_zero
from app.engine.simd.int8_vectors import add_first_products, add_wide_products, ordered_sum
from app.engine.simd.lanes import LANE_BYTES, LANES

_single: Any = float32


@njit(float32(int64, int64, int64), nogil=True, cache=True, inline="always")
def exact_dot(left: int, right: int, k: int) -> float:
    """The scalar product of the k floats at two addresses: the same bits wherever it is called, on any processor.

    Sixteen sums side by side, one fused multiply-add each per 16 factors, then added up by halves.
    """
    sums = wide_zero()
    n_whole = k // LANES
    for part in range(n_whole):
        sums = add_wide_products(sums, left + part * LANE_BYTES, right + part * LANE_BYTES)
    if n_whole * LANES < k:
        done = n_whole * LANE_BYTES
        sums = add_first_products(sums, left + done, right + done, k - n_whole * LANES)
    total: float = ordered_sum(sums)
    return total


@njit(float32(float32, float32, float32), nogil=True, cache=True, inline="always")
def cosine_of(dot: float, own_length: float, length: float) -> float:
    """NaN where a vector has no direction."""
    product = own_length * length
    cosine: float = dot / product if product > 0 else _single(math.nan)
    return cosine


@njit(void(READ_VECTOR, float64, READ_MATRIX, READ_VECTOR, float32[::1]), nogil=True, cache=True)
def score_items(user: Vector32, base: float, item_factors: Matrix32, item_bias: Vector32, scores: Vector32) -> None:
    """scores_i = base + b_i + p.q_i   user [k]   item_factors [n, k]   item_bias [n]   scores [n], overwritten"""
    n_items, k = item_factors.shape
    p, q = user.ctypes.data, item_factors.ctypes.data
    for i in range(n_items):
        scores[i] = (float32(base) + item_bias[i]) + exact_dot(p, q + i * 4 * k, k)


@njit(void(READ_VECTOR, READ_MATRIX, float32[::1]), nogil=True, cache=True)
def cosines(vector: Vector32, item_factors: Matrix32, scores: Vector32) -> None:
    """Cosine of the angle to each item's vector, NaN where one is zero.   vector [k]   scores [n], overwritten"""
    n_items, k = item_factors.shape
    p, q = vector.ctypes.data, item_factors.ctypes.data
    own_length = math.sqrt(exact_dot(p, p, k))
    for i in range(n_items):
        row = q + i * 4 * k
        scores[i] = cosine_of(exact_dot(p, row, k), own_length, math.sqrt(exact_dot(row, row, k)))


@njit(boolean(float32, int32, float32, int32), nogil=True, cache=True, inline="always")
def is_worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    return score < other_score or (score == other_score and row > other_row)


@njit(void(float32[::1], int32[::1], int64, int64), nogil=True, cache=True)
def sink(scores: Vector32, rows: Rows, start: int, size: int) -> None:
    """Restores the heap (worst at the root) below `start`."""
    score, row = scores[start], rows[start]
    at = start
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not is_worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@njit(boolean(float32, boolean, float32), nogil=True, cache=True, inline="always")
def _could_enter(score: float, is_full: bool, worst: float) -> bool:
    """Not NaN, and better than the worst of a full heap; rows come in ascending order, so an equal score loses."""
    return score == score and not (is_full and score <= worst)


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def make_heap(scores: Vector32, rows: Rows, size: int) -> None:
    """The first `size` entries become a heap with the worst at the root."""
    for start in range(size // 2 - 1, -1, -1):
        sink(scores, rows, start, size)


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def sort_heap(scores: Vector32, rows: Rows, size: int) -> None:
    """A heap of the first `size` entries becomes a list of them, best first."""
    for last in range(size - 1, 0, -1):
        rows[0], rows[last] = rows[last], rows[0]
        scores[0], scores[last] = scores[last], scores[0]
        sink(scores, rows, 0, last)


@njit(
    int64(READ_VECTOR, READ_ROWS, READ_ROWS, boolean, int32[::1], float32[::1]),
    nogil=True,
    cache=True,
)
def select_top(
    scores: Vector32,
    excluded: Rows,
    candidates: Rows,
    only_candidates: bool,
    best_rows: Rows,
    best_scores: Vector32,
) -> int:
    """The best rows by (score, smaller row), best first; returns how many there are.

    scores [n_items]   excluded: ascending   candidates: ascending, each row once, in the model   best_rows, best_scores
    [n]: overwritten up to the count returned. A heap of the n best so far: O(n_items + changes log n).
    """
    n = best_rows.size
    if n == 0:
        return 0
    n_offered = candidates.size if only_candidates else scores.size
    n_found, next_excluded = 0, 0
    for offer in range(n_offered):
        row = candidates[offer] if only_candidates else int32(offer)
        score = scores[row]
        if not _could_enter(score, n_found == n, best_scores[0]):
            continue
        while next_excluded < excluded.size and excluded[next_excluded] < row:
            next_excluded += 1
        if next_excluded < excluded.size and excluded[next_excluded] == row:
            continue
        if n_found < n:
            best_rows[n_found], best_scores[n_found] = row, score
            n_found += 1
            if n_found == n:
                make_heap(best_scores, best_rows, n)
        else:
            best_rows[0], best_scores[0] = row, score
            sink(best_scores, best_rows, 0, n)
    if n_found < n:
        make_heap(best_scores, best_rows, n_found)
    sort_heap(best_scores, best_rows, n_found)
    return n_found
