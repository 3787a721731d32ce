from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit

from app.engine.simd.lanes import ALIGNMENT, aligned_matrix, fetch_increment, increment_release, load_acquire, padded


@njit(nogil=True)
def claim_all(counter, claimed):
    at = fetch_increment(counter.ctypes.data)
    while at < claimed.size:
        claimed[at] += 1
        at = fetch_increment(counter.ctypes.data)


@njit(nogil=True)
def increment_and_read(counter):
    increment_release(counter.ctypes.data)
    return load_acquire(counter.ctypes.data)


@pytest.mark.parametrize(("n_factors", "n_columns"), [(1, 16), (16, 16), (17, 32), (64, 64)])
def test_rows_are_padded_to_whole_registers(n_factors, n_columns):
    assert padded(n_factors) == n_columns


@pytest.mark.parametrize("n_rows", [1, 3, 1000])
def test_a_matrix_starts_at_a_cache_line_and_holds_zeros(n_rows):
    matrix = aligned_matrix(n_rows, 16)
    assert matrix.ctypes.data % ALIGNMENT == 0
    assert matrix.shape == (n_rows, 16)
    assert not matrix.any()


def test_threads_that_increment_one_counter_never_get_the_same_number():
    counter, claimed = np.zeros(1, np.int64), np.zeros(20_000, np.int64)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: claim_all(counter, claimed), range(4)))
    assert (claimed == 1).all()


def test_a_released_counter_is_read_with_its_new_value():
    assert increment_and_read(np.array([6], np.int64)) == 7
