"""Finds rows by outside id (`Vocabulary.rows_of`) and by key, with kernels."""

import numpy as np
import numpy.typing as npt
from numba import int32, int64, njit, void

from app.engine.arrays import Bytes, Offsets, Rows
from app.engine.numba_types import READ_BYTES, READ_OFFSETS, READ_ROWS, ROWS


@njit(int64(READ_BYTES, int64, int64, READ_BYTES, int64, int64), nogil=True, cache=True)
def _compare(left: Bytes, start: int, end: int, right: Bytes, from_: int, to: int) -> int:
    """Negative, zero or positive as left[start:end] sorts before, with or after right[from_:to], byte by byte."""
    shared = min(end - start, to - from_)
    for at in range(shared):
        difference: int = int64(left[start + at]) - int64(right[from_ + at])
        if difference != 0:
            return difference
    return (end - start) - (to - from_)


@njit(void(READ_BYTES, READ_OFFSETS, READ_BYTES, READ_OFFSETS, ROWS), nogil=True, cache=True)
def find_rows(text: Bytes, offsets: Offsets, query: Bytes, query_offsets: Offsets, rows: Rows) -> None:
    """Binary search of each queried id among the sorted ids.

    text, query: UTF-8 bytes end to end, each with its n + 1 offsets   rows [n_queried], overwritten; for an absent id
    -1 - i, where i is the row before which it would be inserted
    """
    for one in range(query_offsets.size - 1):
        low, high = 0, offsets.size - 1
        start, end = query_offsets[one], query_offsets[one + 1]
        while low < high:
            middle = (low + high) // 2
            order = _compare(text, offsets[middle], offsets[middle + 1], query, start, end)
            if order == 0:
                rows[one] = middle
                break
            if order < 0:
                low = middle + 1
            else:
                high = middle
        else:
            rows[one] = -1 - low


@njit(void(READ_ROWS, READ_OFFSETS, ROWS), nogil=True, cache=True)
def _look_up(table: Rows, keys: Offsets, rows: Rows) -> None:
    """rows [n_keys]: overwritten with `table[key]`, -1 for keys beyond the table."""
    for one in range(keys.size):
        key = keys[one]
        rows[one] = table[key] if 0 <= key < table.size else int32(-1)


def rows_by_key(keys: npt.NDArray[np.int64]) -> Rows:
    """Row of each database key, -1 where no row has it: one entry per key up to the largest."""
    table = np.full(int(keys.max()) + 1 if keys.size else 0, -1, np.int32)
    table[keys] = np.arange(keys.size, dtype=np.int32)
    return table


def look_up(table: Rows, keys: npt.NDArray[np.integer]) -> Rows:
    """`table[key]` of each key, -1 for keys beyond the table."""
    rows = np.empty(keys.size, np.int32)
    _look_up(table, np.ascontiguousarray(keys, np.int64), rows)
    return rows
