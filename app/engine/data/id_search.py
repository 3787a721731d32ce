"""Kernels that find rows: by outside id (`Vocabulary.rows_of`), and by key."""

from numba import int32, int64, njit, void

from app.engine.arrays import Bytes, Offsets, Rows
from app.engine.numba_types import READ_BYTES, READ_OFFSETS, READ_ROWS


@njit(int64(READ_BYTES, int64, int64, READ_BYTES, int64, int64), nogil=True, cache=True)
def _compare(left: Bytes, start: int, end: int, right: Bytes, from_: int, to: int) -> int:
    """Negative, zero or positive as left[start:end] sorts before, with or after right[from_:to], byte by byte."""
    shared = min(end - start, to - from_)
    for at in range(shared):
        difference: int = int64(left[start + at]) - int64(right[from_ + at])
        if difference != 0:
            return difference
    return (end - start) - (to - from_)


@njit(
    void(READ_BYTES, READ_OFFSETS, READ_BYTES, READ_OFFSETS, int32[::1]),
    nogil=True,
    cache=True,
)
def find_rows(text: Bytes, offsets: Offsets, wanted: Bytes, wanted_offsets: Offsets, found: Rows) -> None:
    """Binary search of each wanted id among the sorted ids.

    text and wanted: bytes end to end, each with its n + 1 offsets
    found [n_wanted], overwritten; -1 where absent
    """
    for one in range(wanted_offsets.size - 1):
        low, high = 0, offsets.size - 1
        found[one] = -1
        while low < high:
            middle = (low + high) // 2
            order = _compare(
                text,
                offsets[middle],
                offsets[middle + 1],
                wanted,
                wanted_offsets[one],
                wanted_offsets[one + 1],
            )
            if order == 0:
                found[one] = middle
                break
            if order < 0:
                low = middle + 1
            else:
                high = middle


@njit(void(READ_ROWS, READ_OFFSETS, int32[::1]), nogil=True, cache=True)
def look_up_rows(table: Rows, keys: Offsets, found: Rows) -> None:
    """found [n_keys]: overwritten with `table[key]`, -1 for keys beyond the table."""
    for one in range(keys.size):
        key = keys[one]
        found[one] = table[key] if 0 <= key < table.size else int32(-1)
