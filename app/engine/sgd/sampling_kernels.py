"""Kernels that take a random share of millions of ratings, one part of them each."""

from typing import Any

from numba import bool_, float32, int32, int64, njit, uint64, void

from app.engine.arrays import Mask, Offsets, Rows, Vector32
from app.engine.numba_types import READ_MASK, READ_OFFSETS, READ_ROWS, READ_VECTOR
from app.engine.splitmix64 import GOLDEN, mixed


@njit(bool_(int64, uint64, uint64, READ_MASK), nogil=True, cache=True, inline="always")
def _is_taken(at: int, key: Any, limit: Any, is_always_taken: Mask) -> Any:
    return is_always_taken[at] or mixed(key + uint64(at) * GOLDEN) < limit


@njit(void(int64, int64, int64, uint64, uint64, READ_MASK, int64[::1]), nogil=True, cache=True)
def count_taken(start: int, end: int, part: int, key: Any, limit: Any, is_always_taken: Mask, counts: Offsets) -> None:
    """counts[part]: how many of the ratings from start to end are taken: all that is_always_taken marks, of the others
    those whose place, mixed with the key, is less than limit.
    """
    n = 0
    for at in range(start, end):
        n += _is_taken(at, key, limit, is_always_taken)
    counts[part] = n


@njit(
    void(
        *(int64, int64, int64, uint64, uint64, READ_MASK, READ_OFFSETS, READ_ROWS, READ_ROWS, READ_VECTOR),
        *(int32[::1], int32[::1], float32[::1]),
    ),
    nogil=True,
    cache=True,
)
def copy_taken(
    start: int,
    end: int,
    part: int,
    key: Any,
    limit: Any,
    is_always_taken: Mask,
    offsets: Offsets,
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
    to_users: Rows,
    to_items: Rows,
    to_values: Vector32,
) -> None:
    """The same ratings, in their order, to the arrays from offsets[part] on."""
    to = offsets[part]
    for at in range(start, end):
        if _is_taken(at, key, limit, is_always_taken):
            to_users[to], to_items[to], to_values[to] = user_rows[at], item_rows[at], values[at]
            to += 1
