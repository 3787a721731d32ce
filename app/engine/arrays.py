"""Array aliases (dtype and rank) and the checked constructors that make plain C-ordered arrays of them."""

import threading
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

Rows = npt.NDArray[np.int32]
"""1-d matrix positions; -1 stands for "not in the model" where a function says so."""
Vector32 = npt.NDArray[np.float32]
Matrix32 = npt.NDArray[np.float32]
Vector64 = npt.NDArray[np.float64]
Matrix64 = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]
RatingColumns = tuple[Rows, Rows, Vector32]
"""User rows, item rows and values of ratings, as kernels take them."""
Offsets = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class InvalidArray(ValueError):
    """An array of the wrong type, shape or content: says which one and what is wrong with it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name
        self.reason = reason


_header_lock = threading.Lock()


def mapped(file: Path) -> npt.NDArray[Any]:
    """The array of a .npy file, mapped read-only; raises OSError, ValueError or EOFError if there is none.

    One at a time: NumPy has Python parse the header, and Python 3.11 counts the depth of parsing for all threads
    together, so that two at once may end in a SystemError.
    """
    with _header_lock:
        # A plain array over the map: np.memmap itself is slower to index and to slice.
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def rows(values: npt.ArrayLike, name: str = "rows") -> Rows:
    """A C-ordered int32 vector of whole numbers; raises InvalidArray when a value would be changed by the cast."""
    array = np.asarray(values)
    if array.dtype == np.int32 and array.ndim == 1 and array.flags.c_contiguous:
        return array
    if array.size == 0:
        return _exact(array.astype(np.int32), np.int32, 1, name)
    if not np.issubdtype(array.dtype, np.integer):
        raise InvalidArray(name, f"must hold whole numbers, not {array.dtype}")
    if array.dtype != np.int32:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise InvalidArray(name, "holds a number outside the 32-bit range")
    return _exact(array, np.int32, 1, name)


def vector32(values: npt.ArrayLike, name: str = "values") -> Vector32:
    """A C-ordered float32 vector of finite numbers."""
    array = _exact(np.asarray(values), np.float32, 1, name)
    if not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InvalidArray(name, f"holds {array[position]} at position {position}")
    return array


def refuse_rows_outside(array: Rows, n_rows: int, name: str, *, unknown_allowed: bool = False) -> None:
    """Raises InvalidArray with the first position whose row is not in 0..n_rows - 1 (or -1 where allowed)."""
    lowest = -1 if unknown_allowed else 0
    if array.size == 0 or (array.min() >= lowest and array.max() < n_rows):
        return
    position = int(np.flatnonzero((array < lowest) | (array >= n_rows))[0])
    raise InvalidArray(name, f"holds row {array[position]} at position {position}; there are {n_rows} rows")


def starts_of(counts: npt.NDArray[np.integer | np.bool_]) -> Offsets:
    """Where each group begins, and where the last one ends, if groups of these sizes lie end to end."""
    starts = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def evenly_spaced(array: npt.NDArray[T], n: int) -> npt.NDArray[T]:
    """At most n of the elements, evenly spaced."""
    return array if array.size <= n else array[np.linspace(0, array.size - 1, n).astype(np.int64)]


def _exact(array: npt.NDArray[Any], dtype: type[np.generic], rank: int, name: str) -> npt.NDArray[Any]:
    if array.ndim != rank:
        raise InvalidArray(name, f"must have {rank} dimension(s), not shape {array.shape}")
    if array.dtype.kind not in "iufb":
        raise InvalidArray(name, f"must hold numbers, not {array.dtype}")
    return np.ascontiguousarray(array, dtype=dtype)
