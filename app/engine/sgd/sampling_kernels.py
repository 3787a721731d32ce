"""Kernels that take a random share of millions of ratings, each call for one part of them."""

from typing import Any

from numba import bool_, int64, njit, uint64, void

from app.engine.arrays import Mask, Offsets, RatingColumns
from app.engine.numba_types import OFFSETS, PART, RATINGS, READ_MASK, READ_OFFSETS, ROWS, VECTOR, group
from app.engine.splitmix64 import GOLDEN, mixed

_SAMPLE = group(uint64, uint64, READ_MASK)
"""A key, a limit and a mask: taken are the ratings that the mask marks, and those whose mixed position is below it."""
Sample = tuple[Any, Any, Mask]


@njit(bool_(int64, _SAMPLE), nogil=True, cache=True, inline="always")
def _is_taken(at: int, sample: Sample) -> Any:
    key, limit, is_always_taken = sample
    return is_always_taken[at] or mixed(key + uint64(at) * GOLDEN) < limit


@njit(void(*PART, _SAMPLE, OFFSETS), nogil=True, cache=True)
def count_taken(start: int, end: int, part: int, sample: Sample, counts: Offsets) -> None:
    """counts[part]: how many of the ratings from start to end are taken."""
    n = 0
    for at in range(start, end):
        n += _is_taken(at, sample)
    counts[part] = n


@njit(void(*PART, _SAMPLE, READ_OFFSETS, RATINGS, group(ROWS, ROWS, VECTOR)), nogil=True, cache=True)
def copy_taken(
    start: int, end: int, part: int, sample: Sample, offsets: Offsets, ratings: RatingColumns, taken: RatingColumns
) -> None:
    """Copies the same ratings, in their order, to `taken` from offsets[part] on."""
    user_rows, item_rows, values = ratings
    to_users, to_items, to_values = taken
    to = offsets[part]
    for at in range(start, end):
        if _is_taken(at, sample):
            to_users[to], to_items[to], to_values[to] = user_rows[at], item_rows[at], values[at]
            to += 1
