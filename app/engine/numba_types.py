"""Argument types of the kernels: C-ordered arrays that they only read, named like the aliases in `arrays`.

A read-only type accepts both a plain array and one that is mapped from a file; a writable type rejects the latter.
Arrays that a kernel writes are spelled out in its signature: `float32[::1]`.
"""

from numba import boolean, float32, float64, int32, int64, uint8, uint32, uint64
from numba.core.types import Array

READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_MATRIX = Array(float32, 2, "C", readonly=True)
READ_VECTOR64 = Array(float64, 1, "C", readonly=True)
READ_MATRIX64 = Array(float64, 2, "C", readonly=True)
READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_ROW_TABLE = Array(int32, 2, "C", readonly=True)
READ_OFFSETS = Array(int64, 1, "C", readonly=True)
READ_OFFSET_TABLE = Array(int64, 2, "C", readonly=True)
READ_MASK = Array(boolean, 1, "C", readonly=True)
READ_BYTES = Array(uint8, 1, "C", readonly=True)
READ_BITS = Array(uint32, 1, "C", readonly=True)
READ_HASHES = Array(uint64, 1, "C", readonly=True)
