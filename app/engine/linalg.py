"""Matrix products over many rows, in parts that depend on the data alone: the same for any number of threads."""

from __future__ import annotations

import itertools
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt
from numba import float32, float64, int64, njit, void

from app.engine.arrays import Matrix32, Matrix64
from app.engine.numba_types import MATRIX, MATRIX64, READ_MATRIX
from app.engine.parallel import run_all

Parts = tuple[tuple[int, int], ...]
"""First and last + 1 row of each part."""

_PARTS = 32
"""Enough that threads share the work evenly, few enough that sums per part stay cheap."""
_MIN_ROWS = 64


def cut(counts: npt.NDArray[np.integer], work_per_row: int) -> Parts:
    """Parts of about equal work: a row costs its count plus work_per_row."""
    work = np.cumsum(counts.astype(np.int64) + work_per_row)
    total = int(work[-1]) if work.size else 0
    n_parts = max(1, min(_PARTS, total // (_MIN_ROWS * work_per_row)))
    bounds = np.searchsorted(work, np.arange(1, n_parts) * (total / n_parts))
    edges = np.unique(np.concatenate([[0], bounds, [counts.size]])).tolist()
    return tuple(itertools.pairwise(edges))


def cross_products(pool: Executor, parts: Parts, left: Matrix32, right: Matrix32) -> Matrix64:
    """left' right, in double precision over the parts in their order."""
    sums: Matrix64 = np.zeros((len(parts), left.shape[1], right.shape[1]))
    run_all(pool, add_cross_products, [(left, right, *part, sums[number]) for number, part in enumerate(parts)])
    total: Matrix64 = sums.sum(axis=0)
    return total


def product(pool: Executor, parts: Parts, left: Matrix32, right: Matrix64, result: Matrix32 | None = None) -> Matrix32:
    """left right, row by row, into `result` if there is one.   right [a, b]"""
    result = np.empty((left.shape[0], right.shape[1]), np.float32) if result is None else result
    factor = np.ascontiguousarray(right, np.float32)
    run_all(pool, multiply_rows, [(left, factor, *part, result) for part in parts])
    return result


@njit(void(READ_MATRIX, READ_MATRIX, int64, int64, MATRIX64), nogil=True, cache=True, fastmath={"contract"})
def add_cross_products(left: Matrix32, right: Matrix32, first: int, last: int, sums: Matrix64) -> None:
    """Adds left' right over the rows first..last.   left [n, a]   right [n, b]   sums [a, b]

    In single precision over 64 rows at a time, and four rows at once.
    """
    n_left, n_right = left.shape[1], right.shape[1]
    part = np.empty((n_left, n_right), np.float32)
    for begin in range(first, last, 64):
        end = min(begin + 64, last)
        part[:, :] = float32(0)
        whole = begin + (end - begin) // 4 * 4
        for t in range(begin, whole, 4):
            for f in range(n_left):
                a, b, c, d = left[t, f], left[t + 1, f], left[t + 2, f], left[t + 3, f]
                for g in range(n_right):
                    part[f, g] += (a * right[t, g] + b * right[t + 1, g]) + (c * right[t + 2, g] + d * right[t + 3, g])
        for t in range(whole, end):
            for f in range(n_left):
                a = left[t, f]
                for g in range(n_right):
                    part[f, g] += a * right[t, g]
        for f in range(n_left):
            for g in range(n_right):
                sums[f, g] += float64(part[f, g])


@njit(void(READ_MATRIX, READ_MATRIX, int64, int64, MATRIX), nogil=True, cache=True, fastmath={"contract"})
def multiply_rows(left: Matrix32, right: Matrix32, first: int, last: int, product: Matrix32) -> None:
    """product = left right in the rows first..last.   left [n, a]   right [a, b]"""
    n_inner, n_right = right.shape
    for t in range(first, last):
        for g in range(n_right):
            product[t, g] = float32(0)
        for f in range(n_inner):
            a = left[t, f]
            for g in range(n_right):
                product[t, g] += a * right[f, g]
