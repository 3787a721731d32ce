"""Counts, sums and moments in one pass, several times as fast as NumPy's own on millions of ratings."""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32, njit, void
from numba.core.types import Array

from app.engine.arrays import Counts, Rows, Vector32, Vector64
from app.engine.lanes import FAST_MATH

READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_VECTOR = Array(float32, 1, "C", readonly=True)


@njit(void(READ_ROWS, int32[::1]), nogil=True, cache=True)
def _count(rows: Rows, counts: Counts) -> None:
    """rows [n], each < counts.size   counts: added to"""
    for at in range(rows.size):
        counts[rows[at]] += 1


@njit(void(READ_ROWS, READ_VECTOR, float64[::1]), nogil=True, cache=True)
def _sum(rows: Rows, values: Vector32, sums: Vector64) -> None:
    """rows, values [n], each row < sums.size   sums: added to"""
    for at in range(rows.size):
        sums[rows[at]] += float64(values[at])


@njit(float64[::1](READ_VECTOR, float64), nogil=True, cache=True, fastmath=set(FAST_MATH))
def _power_sums(values: Vector32, centre: float) -> Vector64:
    """sum (v - centre) and sum (v - centre)^2.   values [n]"""
    shift, square = 0.0, 0.0
    for at in range(values.size):
        distance = float64(values[at]) - centre
        shift += distance
        square += distance * distance
    return np.array([shift, square])


def mean_and_variance(values: Vector32) -> tuple[float, float]:
    """Of all values, in one pass and no copy; zeros of nothing."""
    if not values.size:
        return 0.0, 0.0
    centre = float(values[0])  # near the values, so that nothing cancels
    shift, square = (float(total) / values.size for total in _power_sums(values, centre))
    return centre + shift, max(square - shift * shift, 0.0)


def count_rows(rows: Rows, n_rows: int) -> Counts:
    """Ratings per row."""
    counts = np.zeros(n_rows, np.int32)
    _count(rows, counts)
    return counts


def sum_rows(rows: Rows, values: Vector32, n_rows: int) -> Vector64:
    """Sum of the values of each row."""
    sums = np.zeros(n_rows, np.float64)
    _sum(rows, values, sums)
    return sums
