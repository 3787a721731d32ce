"""The kernels behind `app.engine.top_n`."""

import math

from numba import boolean, float32, float64, int32, int64, njit, void
from numba.core.types import Array

from app.engine.arrays import Matrix32, Rows, Vector32
from app.engine.lanes import FAST_MATH

READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_MATRIX = Array(float32, 2, "C", readonly=True)
READ_ROWS = Array(int32, 1, "C", readonly=True)


@njit(
    void(READ_VECTOR, float64, READ_MATRIX, READ_VECTOR, float32[::1]),
    nogil=True,
    cache=True,
    fastmath=set(FAST_MATH),
)
def score_items(user: Vector32, base: float, item_factors: Matrix32, item_bias: Vector32, scores: Vector32) -> None:
    """scores_i = base + b_i + p.q_i   user [k]   item_factors [n, k]   item_bias [n]   scores [n], overwritten"""
    n_items, k = item_factors.shape
    for i in range(n_items):
        dot = float32(0)
        for f in range(k):
            dot += user[f] * item_factors[i, f]
        scores[i] = float32(base) + item_bias[i] + dot


@njit(void(READ_VECTOR, READ_MATRIX, float32[::1]), nogil=True, cache=True, fastmath=set(FAST_MATH))
def cosines(vector: Vector32, item_factors: Matrix32, scores: Vector32) -> None:
    """Cosine of the angle to each item's vector, NaN where one is zero.   vector [k]   scores [n], overwritten"""
    n_items, k = item_factors.shape
    own = float32(0)
    for f in range(k):
        own += vector[f] * vector[f]
    for i in range(n_items):
        dot, length = float32(0), float32(0)
        for f in range(k):
            dot += vector[f] * item_factors[i, f]
            length += item_factors[i, f] * item_factors[i, f]
        scores[i] = dot / math.sqrt(own * length) if own * length > 0 else math.nan


@njit(boolean(float32, int32, float32, int32), nogil=True, cache=True, inline="always")
def _is_worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    return score < other_score or (score == other_score and row > other_row)


@njit(void(float32[::1], int32[::1], int64, int64), nogil=True, cache=True)
def _sink(scores: Vector32, rows: Rows, start: int, size: int) -> None:
    """Restores the heap (worst at the root) below `start`."""
    score, row = scores[start], rows[start]
    at = start
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _is_worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@njit(boolean(float32, boolean, float32), nogil=True, cache=True, inline="always")
def _could_enter(score: float, is_full: bool, worst: float) -> bool:
    """Not NaN, and better than the worst of a full heap; rows come in ascending order, so an equal score loses."""
    return score == score and not (is_full and score <= worst)


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def _make_heap(scores: Vector32, rows: Rows, size: int) -> None:
    """The first `size` entries become a heap with the worst at the root."""
    for start in range(size // 2 - 1, -1, -1):
        _sink(scores, rows, start, size)


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def _sort_heap(scores: Vector32, rows: Rows, size: int) -> None:
    """A heap of the first `size` entries becomes a list of them, best first."""
    for last in range(size - 1, 0, -1):
        rows[0], rows[last] = rows[last], rows[0]
        scores[0], scores[last] = scores[last], scores[0]
        _sink(scores, rows, 0, last)


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
    """The best rows by (score, smaller row), best first; gives how many there are.

    scores [n_items]   excluded: ascending   candidates: ascending, each row once, in the model   best_rows, best_scores
    [n]: overwritten up to the count given back. A heap of the n best so far: O(n_items + changes log n).
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
                _make_heap(best_scores, best_rows, n)
        else:
            best_rows[0], best_scores[0] = row, score
            _sink(best_scores, best_rows, 0, n)
    if n_found < n:
        _make_heap(best_scores, best_rows, n_found)
    _sort_heap(best_scores, best_rows, n_found)
    return n_found
