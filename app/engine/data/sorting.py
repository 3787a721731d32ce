"""The kernel that puts ratings in canonical order."""

import numpy as np
from numba import int64, njit, void

from app.engine.arrays import RatingColumns
from app.engine.numba_types import RATINGS, ROWS, VECTOR, group


@njit(void(RATINGS, int64, group(ROWS, ROWS, VECTOR)), nogil=True, cache=True)
def sort_by_first(ratings: RatingColumns, n_keys: int, result: RatingColumns) -> None:
    """Stable counting sort of three columns by the first, each entry 0..n_keys - 1, in two passes over n ratings.

    result: three columns [n], overwritten
    """
    keys, others, values = ratings
    sorted_keys, sorted_others, sorted_values = result
    next_free = np.zeros(n_keys + 1, np.int64)
    for at in range(keys.size):
        next_free[keys[at] + 1] += 1
    for key in range(n_keys):
        next_free[key + 1] += next_free[key]
    for at in range(keys.size):
        to = next_free[keys[at]]
        next_free[keys[at]] = to + 1
        sorted_keys[to], sorted_others[to], sorted_values[to] = keys[at], others[at], values[at]
