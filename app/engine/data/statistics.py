"""Counts, sums, means and variances in one pass, several times as fast as NumPy's own on millions of ratings."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numba import float64, njit, void

from app.engine.arrays import Counts, Offsets, Rows, Vector32, Vector64
from app.engine.data.ratings import Ratings
from app.engine.numba_types import MATRIX64, OFFSETS, PART, READ_ROWS, READ_VECTOR, ROW_TABLE, ROWS, VECTOR64
from app.engine.parallel import in_parts, n_parts_of
from app.engine.simd.lanes import FAST_MATH


@dataclass(frozen=True, slots=True)
class RatingStatistics:
    """Statistics of the ratings that a fit needs more than once."""

    mean: float
    variance: float
    user_starts: Offsets
    """[n_users + 1]: position of each user's first rating."""
    user_counts: Counts
    item_counts: Counts
    item_sums: Vector64

    @property
    def spread(self) -> float:
        """See `nonzero_spread`."""
        return nonzero_spread(self.mean, self.variance)

    @property
    def item_means(self) -> Vector32:
        """Plain mean of each item's ratings; the overall mean for items without ratings."""
        means = self.item_sums / np.maximum(self.item_counts, 1)
        return np.where(self.item_counts > 0, means, self.mean).astype(np.float32)


def rating_statistics(ratings: Ratings, pool: Executor) -> RatingStatistics:
    """The same for every number of threads; each rating is read once."""
    n = len(ratings)
    counts = np.zeros((n_parts_of(n), ratings.n_items), np.int32)
    sums = np.zeros(counts.shape)
    in_parts(pool, _count_and_sum, n, ratings.item_rows, ratings.values, counts, sums)
    starts = np.full(ratings.n_users + 1, n, np.int64)
    in_parts(pool, _find_starts, n, ratings.user_rows, starts)
    mean, variance = mean_and_variance(ratings.values)
    return RatingStatistics(
        mean=mean,
        variance=variance,
        user_starts=starts,
        user_counts=np.diff(starts).astype(np.int32),
        item_counts=counts.sum(axis=0, dtype=np.int32),
        item_sums=sums.sum(axis=0),
    )


def mean_and_variance(values: Vector32) -> tuple[float, float]:
    """In one pass and without a copy; zeros for no values."""
    if not values.size:
        return 0.0, 0.0
    centre = float(values[0])  # near the values, so that nothing cancels
    shift, square = (float(total) / values.size for total in _power_sums(values, centre))
    return centre + shift, max(square - shift * shift, 0.0)


def nonzero_spread(mean: float, variance: float) -> float:
    """Standard deviation of ratings; where all are equal, a twentieth of their value (1 if they are zero)."""
    spread = math.sqrt(variance)
    return spread if spread > 1e-6 * abs(mean) else 0.05 * abs(mean) or 1.0


def count_rows(rows: Rows, n_rows: int) -> Counts:
    """Ratings per row."""
    counts = np.zeros(n_rows, np.int32)
    _count(rows, counts)
    return counts


@njit(void(READ_ROWS, ROWS), nogil=True, cache=True)
def _count(rows: Rows, counts: Counts) -> None:
    """rows [n], each < counts.size   counts: added to"""
    for at in range(rows.size):
        counts[rows[at]] += 1


@njit(void(*PART, READ_ROWS, READ_VECTOR, ROW_TABLE, MATRIX64), nogil=True, cache=True)
def _count_and_sum(
    start: int, end: int, part: int, rows: Rows, values: Vector32, counts: Counts, sums: Vector64
) -> None:
    """counts, sums [n_parts, n_rows], zero before: ratings of each row from start to end, and their sum."""
    for at in range(start, end):
        counts[part, rows[at]] += 1
        sums[part, rows[at]] += float64(values[at])


@njit(void(*PART, READ_ROWS, OFFSETS), nogil=True, cache=True)
def _find_starts(start: int, end: int, _part: int, rows: Rows, starts: Offsets) -> None:
    """rows [n], rising   starts[r]: the first position whose row is at least r, for rows from start to end"""
    before = rows[start - 1] if start > 0 else -1
    for at in range(start, end):
        if rows[at] != before:
            for row in range(before + 1, rows[at] + 1):
                starts[row] = at
            before = rows[at]


@njit(VECTOR64(READ_VECTOR, float64), nogil=True, cache=True, fastmath=set(FAST_MATH))
def _power_sums(values: Vector32, centre: float) -> Vector64:
    """sum (v - centre) and sum (v - centre)^2.   values [n]"""
    shift, square = 0.0, 0.0
    for at in range(values.size):
        distance = float64(values[at]) - centre
        shift += distance
        square += distance * distance
    return np.array([shift, square])
