import numpy as np
import pytest
from numba import njit

from app.engine.bayes.gram import COLUMNS, sum_products


@njit
def summed(vectors, weights, others, values, start, end, mean, gram, product):
    sum_products(
        *(vectors.ctypes.data, weights.ctypes.data, others.ctypes.data, values.ctypes.data),
        *(start, end, np.float32(mean), gram.ctypes.data, product.ctypes.data),
    )


def test_the_sums_are_those_of_numpy():
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(9, COLUMNS)).astype(np.float32), rng.uniform(1, 2, 9).astype(np.float32)
    others, values = rng.integers(0, 9, 30).astype(np.int32), rng.normal(3, 1, 30).astype(np.float32)
    gram, product = np.empty((COLUMNS, COLUMNS), np.float32), np.empty(COLUMNS, np.float32)
    summed(vectors, weights, others, values, 4, 25, 3.0, gram, product)
    y, w = vectors[others[4:25]].astype(float), weights[others[4:25], None].astype(float)
    assert gram == pytest.approx((w * y).T @ y, abs=1e-4)
    assert product == pytest.approx((w * y).T @ (values[4:25] - 3.0), abs=1e-4)
