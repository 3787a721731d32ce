import numpy as np
from numba import float32, int32, int64, njit

from app.engine.byte_vectors import (
    add_products,
    add_products_by_pairs,
    float_at,
    reaching,
    sums_zero,
)


@njit
def lanes_above(items, user, lines, by_pairs, threshold):
    sums = sums_zero()
    for part in range(user.size // 4):
        if by_pairs:
            sums = add_products_by_pairs(sums, items.ctypes.data + 64 * part, user.ctypes.data + 4 * part)
        else:
            sums = add_products(sums, items.ctypes.data + 64 * part, user.ctypes.data + 4 * part)
    one, none = float32(1), float32(0)
    return reaching(sums, int32(threshold), one, lines.ctypes.data, none, int64(2), none, none)


def test_sums_of_bytes_are_exact_at_their_extremes_with_and_without_the_instruction():
    rng = np.random.default_rng(0)
    lines = np.ones((4, 16), np.float32)
    for case in range(200):
        items = rng.choice([0, 1, 128, 255], (8, 16, 4)).astype(np.uint8)
        user = rng.choice([-128, -127, -1, 0, 1, 127], 32).astype(np.int8)
        sums = np.einsum("gif,gf->i", items.astype(np.int64), user.reshape(8, 4).astype(np.int64))
        for threshold in (int(sums[case % 16]), int(sums[case % 16]) + 1):
            expected = int(((sums >= threshold) << np.arange(16)).sum())
            assert lanes_above(items, user, lines, False, threshold) == expected
            assert lanes_above(items, user, lines, True, threshold) == expected


def test_numbers_are_read_where_they_lie():
    values = np.arange(5, dtype=np.float32)

    @njit
    def third(array):
        return float_at(array.ctypes.data, int64(3))

    assert third(values) == 3.0
