"""Argument types of the kernels: C-ordered arrays, named like the aliases in `arrays`.

A READ_ type accepts both a plain array and a read-only one, as mapped from a file; the others reject the latter. Numba
converts the arrays of a plain tuple one by one, so a tuple of READ_ types accepts both too (a NamedTuple would not).
"""

from typing import Any

from numba import boolean, float32, float64, int32, int64, uint8, uint32, uint64
from numba.core import types

VECTOR, MATRIX = float32[::1], float32[:, ::1]
VECTOR64, MATRIX64 = float64[::1], float64[:, ::1]
ROWS, ROW_TABLE = int32[::1], int32[:, ::1]
OFFSETS, OFFSET_TABLE = int64[::1], int64[:, ::1]
MASK = boolean[::1]

READ_VECTOR = types.Array(float32, 1, "C", readonly=True)
READ_MATRIX = types.Array(float32, 2, "C", readonly=True)
READ_VECTOR64 = types.Array(float64, 1, "C", readonly=True)
READ_MATRIX64 = types.Array(float64, 2, "C", readonly=True)
READ_ROWS = types.Array(int32, 1, "C", readonly=True)
READ_ROW_TABLE = types.Array(int32, 2, "C", readonly=True)
READ_OFFSETS = types.Array(int64, 1, "C", readonly=True)
READ_OFFSET_TABLE = types.Array(int64, 2, "C", readonly=True)
READ_MASK = types.Array(boolean, 1, "C", readonly=True)
READ_BYTES = types.Array(uint8, 1, "C", readonly=True)
READ_BITS = types.Array(uint32, 1, "C", readonly=True)
READ_HASHES = types.Array(uint64, 1, "C", readonly=True)

PART = (int64, int64, int64)
"""First row, last row + 1 and number of a part: what `parallel.in_parts` gives a kernel before its other arguments."""


_tuple_of: Any = types.Tuple  # Numba is typed in part


def group(*members: object) -> Any:
    """The type of several arguments that a kernel takes as one tuple."""
    return _tuple_of(members)


RATINGS = group(READ_ROWS, READ_ROWS, READ_VECTOR)
"""User rows, item rows and values."""
PARAMETERS = group(MATRIX, MATRIX, VECTOR, VECTOR)
READ_PARAMETERS = group(READ_MATRIX, READ_MATRIX, READ_VECTOR, READ_VECTOR)
"""User factors, item factors, user biases and item biases."""
