"""The kernels' own functions against NumPy in float64, over every float32 that matters."""

import math

import numpy as np
import pytest
from numba import float32, njit, void

from app.engine.losses import kernel_functions

TINY = float(np.finfo(np.float32).tiny)


def over(function):
    """The function as a loop over float32, compiled as in a kernel: with its fast-math flags around it."""

    @njit(void(float32[::1], float32[::1]), fastmath={"reassoc", "contract", "nsz", "arcp", "afn"})
    def loop(numbers, results):
        for place in range(numbers.size):
            results[place] = function(numbers[place])

    def applied(numbers):
        given = np.asarray(numbers, np.float32)
        results = np.empty_like(given)
        loop(given, results)
        return results

    return applied


def everywhere(low=-3e38, high=3e38):
    """Numbers of every size and sign between the ends, dense around zero and one."""
    sizes = np.concatenate([np.geomspace(1e-37, 3e38, 40_001), np.linspace(0, 110, 200_001)])
    numbers = np.concatenate([-sizes[::-1], sizes]).astype(np.float32)
    return numbers[(numbers >= low) & (numbers <= high)]


def sigmoid(u):
    return np.where(u > 0, 1.0, np.exp(-np.abs(u))) / (1 + np.exp(-np.abs(u)))


EXACT = {
    "exponential": (np.exp, (-87.0, 88.3)),
    "logarithm": (np.log, (1e-37, 3e38)),
    "logarithm_of_1_plus": (np.log1p, (-0.999999, 3e38)),
    "tanh": (np.tanh, (-3e38, 3e38)),
    "sinh": (np.sinh, (-88.0, 88.0)),
    "cosh": (np.cosh, (-88.0, 88.0)),
    "sigmoid": (sigmoid, (-87.0, 3e38)),
    "softplus": (lambda u: np.maximum(u, 0) + np.log1p(np.exp(-np.abs(u))), (-87.0, 3e38)),
    "root": (np.sqrt, (0.0, 3e38)),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_function_is_right_to_one_in_a_million(name):
    exact, (low, high) = EXACT[name]
    numbers = everywhere(low, high)
    expected = exact(numbers.astype(np.float64))
    found = over(getattr(kernel_functions, name))(numbers).astype(np.float64)
    off = np.abs(found - expected) / np.maximum(np.abs(expected), TINY)
    assert off.max() < 1e-6, numbers[off.argmax()]


def test_log_cosh_is_right_to_a_ten_millionth_or_in_a_million():
    numbers = everywhere(-1e37, 1e37)
    size = np.abs(numbers.astype(np.float64))
    expected = size + np.log1p(np.exp(-2 * size)) - math.log(2)
    np.testing.assert_allclose(over(kernel_functions.log_cosh)(numbers), expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("exponent", [0.3, 1.5, -0.7, 2.5])
def test_a_power_is_right_but_for_the_rounding_of_its_logarithm(exponent):
    numbers = np.geomspace(1e-6, 1e6, 10_001).astype(np.float32)
    number = np.float32(exponent)
    power = kernel_functions.power
    found = over(njit(lambda u: power(u, number)))(numbers)
    np.testing.assert_allclose(found, numbers.astype(np.float64) ** float(number), rtol=1e-5)


ENDS = [-math.inf, -0.0, 0.0, math.inf, math.nan]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exponential", [0, 1, 1, math.inf, math.nan]),
        ("logarithm", [math.nan, -math.inf, -math.inf, math.inf, math.nan]),
        ("logarithm_of_1_plus", [math.nan, 0, 0, math.inf, math.nan]),
        ("tanh", [-1, 0, 0, 1, math.nan]),
        ("sinh", [-math.inf, 0, 0, math.inf, math.nan]),
        ("cosh", [math.inf, 1, 1, math.inf, math.nan]),
        ("sigmoid", [0, 0.5, 0.5, 1, math.nan]),
        ("softplus", [0, math.log(2), math.log(2), math.inf, math.nan]),
        ("log_cosh", [math.inf, 0, 0, math.inf, math.nan]),
        ("sign", [-1, 0, 0, 1, math.nan]),
        ("absolute", [math.inf, 0, 0, math.inf, math.nan]),
    ],
)
def test_the_ends_of_a_function_are_those_of_the_mathematics(name, expected):
    np.testing.assert_allclose(over(getattr(kernel_functions, name))(ENDS), expected, rtol=1e-6, atol=1e-7)


def test_the_logarithm_knows_the_smallest_numbers():
    numbers = np.array([1e-45, 1e-40, 1.1e-38], np.float32)
    np.testing.assert_allclose(over(kernel_functions.logarithm)(numbers), np.log(numbers.astype(np.float64)), rtol=1e-6)


def test_a_large_exponential_is_infinite_and_a_small_one_vanishes():
    assert over(kernel_functions.exponential)([88.72, 89, 1e30, -104, -1e30]).tolist() == pytest.approx(
        [math.exp(np.float32(88.72)), math.inf, math.inf, 0, 0], rel=1e-5, abs=1e-44
    )


def test_a_slope_of_huber_keeps_what_is_not_a_number():
    clamp, one = kernel_functions.clamp, np.float32(1)
    assert over(njit(lambda u: clamp(u, one)))([-5, 0.25, 5]).tolist() == [-1, 0.25, 1]
    assert np.isnan(over(njit(lambda u: clamp(u, one)))([math.nan])).all()
