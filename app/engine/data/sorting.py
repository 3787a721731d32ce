"""The kernel that puts ratings in canonical order."""

import numpy as np
from numba import float32, int32, int64, njit, void

from app.engine.arrays import Rows, Vector32
from app.engine.numba_types import READ_ROWS, READ_VECTOR


@njit(
    void(
        READ_ROWS,
        READ_ROWS,
        READ_VECTOR,
        int64,
        int32[::1],
        int32[::1],
        float32[::1],
    ),
    nogil=True,
    cache=True,
)
def sort_by(
    keys: Rows,
    others: Rows,
    values: Vector32,
    n_keys: int,
    sorted_keys: Rows,
    sorted_others: Rows,
    sorted_values: Vector32,
) -> None:
    """Stable counting sort by keys, each 0..n_keys - 1, in two passes over n ratings.   last three [n], overwritten"""
    next_free = np.zeros(n_keys + 1, np.int64)
    for at in range(keys.size):
        next_free[keys[at] + 1] += 1
    for key in range(n_keys):
        next_free[key + 1] += next_free[key]
    for at in range(keys.size):
        to = next_free[keys[at]]
        next_free[keys[at]] = to + 1
        sorted_keys[to], sorted_others[to], sorted_values[to] = keys[at], others[at], values[at]
