import numpy as np
from numba import float32, njit

from app.engine.simd.float_vectors import (
    four_of,
    lane_0,
    lane_1,
    lane_2,
    lane_3,
    row_functions,
    select,
    sums_of_four,
    wide_of,
    wide_sum,
)
from app.engine.simd.lanes import aligned_matrix

load, store, scaled, dot, _, _, update_and_decay, _ = row_functions(32)


@njit
def dot_of(p, q):
    return wide_sum(dot(load(p.ctypes.data), q.ctypes.data))


@njit
def step(p, q, size, keep_p, keep_q):
    row = update_and_decay(load(p.ctypes.data), q.ctypes.data, wide_of(size), wide_of(keep_q), wide_of(keep_p))
    store(p.ctypes.data, scaled(row, float32(2)))


@njit
def sums_of(rows):
    q = rows.ctypes.data
    a, b, c, d = load(q), load(q + 128), load(q + 256), load(q + 384)
    four = sums_of_four(dot(a, q), dot(b, q), dot(c, q), dot(d, q))
    return lane_0(four), lane_1(four), lane_2(four), lane_3(four)


@njit
def smaller_or_half(a, b, c, d):
    four = four_of(a, b, c, d)
    chosen = select(four < float32(2), four, float32(0.5) * four)
    return lane_0(chosen), lane_1(chosen), lane_2(chosen), lane_3(chosen)


def rows(n):
    matrix = aligned_matrix(n, 32)
    matrix[:] = np.random.default_rng(0).normal(size=matrix.shape)
    return matrix


def test_the_dot_product_of_rows_is_that_of_numpy():
    p, q = rows(2)
    np.testing.assert_allclose(dot_of(p, q), p @ q, rtol=1e-5)


def test_a_step_reads_both_rows_before_it_writes_either():
    both = rows(2)
    p, q = both.copy()
    step(*both, np.float32(0.1), np.float32(0.9), np.float32(0.8))
    np.testing.assert_allclose(both[0], 2 * (np.float32(0.9) * p + np.float32(0.1) * q), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1], np.float32(0.8) * q + np.float32(0.1) * p, rtol=1e-5, atol=1e-6)


def test_four_sums_are_taken_together():
    matrix = rows(4)
    np.testing.assert_allclose(sums_of(matrix), matrix @ matrix[0], rtol=1e-5, atol=1e-5)


def test_a_choice_is_made_lane_by_lane():
    assert smaller_or_half(*np.float32([1, 2, 3, 4])) == (1, 1, 1.5, 2)
