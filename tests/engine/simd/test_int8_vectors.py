import numpy as np
import pytest
from numba import int32, int64, njit

from app.engine.simd.int8_vectors import (
    blocks_reaching,
    blocks_reaching_by_pairs,
    float_at,
    n_set,
    sum_of_products,
    sum_of_products_by_pairs,
)


@njit
def reaching(items, user, lowest, facts, extras, numbers):
    place = items.ctypes.data, user.size // 4, user.ctypes.data
    return blocks_reaching(*place, int32(lowest), facts.ctypes.data, extras.ctypes.data, numbers.ctypes.data)


@njit
def reaching_by_pairs(items, user, lowest, facts, extras, numbers):
    place = items.ctypes.data, user.size // 4, user.ctypes.data
    return blocks_reaching_by_pairs(*place, int32(lowest), facts.ctypes.data, extras.ctypes.data, numbers.ctypes.data)


@njit
def total(item, user):
    return sum_of_products(item.ctypes.data, user.ctypes.data, int64(item.size // 64))


@njit
def total_by_pairs(item, user):
    return sum_of_products_by_pairs(item.ctypes.data, user.ctypes.data, int64(item.size // 64))


def as_flags(halves: tuple[int, int]) -> list[bool]:
    """Of 8 blocks of 16."""
    return [bool(half >> bit & 1) for half in halves for bit in range(64)]


BYTES, SIGNED = [0, 1, 128, 255], [-128, -127, -1, 0, 1, 127]


@pytest.mark.parametrize("find", [reaching, reaching_by_pairs])
def test_sums_of_bytes_are_exact_at_their_extremes_with_and_without_the_instruction(find):
    rng = np.random.default_rng(0)
    facts = np.zeros((4, 8), np.float32)
    facts[0] = 1
    extras, numbers = np.zeros((8, 16), np.float32), np.array([1, 0, 0, 0, 0], np.float32)
    for case in range(100):
        n_parts = int(rng.integers(1, 6))
        items = rng.choice(BYTES, (8, n_parts, 16, 4)).astype(np.uint8)
        user = rng.choice(SIGNED, 4 * n_parts).astype(np.int8)
        sums = np.einsum("bgif,gf->bi", items.astype(np.int64), user.reshape(-1, 4).astype(np.int64)).ravel()
        for threshold in (int(sums[case]), int(sums[case]) + 1):
            found = as_flags(find(items, user, -threshold, facts, extras, numbers))
            assert found == (sums >= threshold).tolist()


def test_every_part_of_a_bound_weighs_what_it_should():
    rng = np.random.default_rng(1)
    for _ in range(50):
        items = rng.integers(0, 256, (8, 2, 16, 4)).astype(np.uint8)
        user = rng.integers(-128, 128, 8).astype(np.int8)
        facts, numbers = rng.normal(0, 1, (4, 8)), rng.normal(0, 1, 5)
        extras = rng.normal(0, 1, (8, 16))
        (scale, error, norm, slack), (step, error_weight, norm_weight, weight, floor) = facts, numbers
        sums = 7 + np.einsum("bgif,gf->bi", items.astype(np.int64), user.reshape(2, 4).astype(np.int64))
        bounds = sums * step * scale[:, None] + weight * extras
        bounds += (error_weight * error + norm_weight * norm + slack + floor)[:, None]
        found = as_flags(reaching(items, user, 7, *(each.astype(np.float32) for each in (facts, extras, numbers))))
        is_clear = np.abs(bounds.ravel()) > 1e-2
        assert np.array_equal(np.array(found)[is_clear], (bounds.ravel() >= 0)[is_clear])


@pytest.mark.parametrize("add_up", [total, total_by_pairs])
def test_one_vector_of_bytes_is_multiplied_exactly_with_and_without_the_instruction(add_up):
    rng = np.random.default_rng(2)
    for n in (64, 128, 1024):
        item, user = rng.choice(BYTES, n).astype(np.uint8), rng.choice(SIGNED, n).astype(np.int8)
        assert add_up(item, user) == int(item.astype(np.int64) @ user.astype(np.int64))


def test_numbers_are_read_where_they_lie():
    values = np.arange(5, dtype=np.float32)

    @njit
    def third(array):
        return float_at(array.ctypes.data, int64(3))

    assert third(values) == 3.0


@pytest.mark.parametrize(("bits", "n"), [(0, 0), (1, 1), (-1, 64), (0b1011 << 40, 3)])
def test_bits_are_counted(bits, n):
    @njit
    def count(number):
        return n_set(int64(number))

    assert count(bits) == n
