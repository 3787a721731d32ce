import numpy as np

from app.engine.linalg import add_cross_products, multiply_rows


def test_products_of_tall_matrices_are_those_of_numpy():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(131, 5)).astype(np.float32), rng.normal(size=(131, 19)).astype(np.float32)
    sums = np.zeros((5, 19))
    add_cross_products(left, right, 3, 131, sums)
    np.testing.assert_allclose(sums, left[3:].T @ right[3:], atol=1e-4)
    product = np.zeros((131, 19), np.float32)
    factor = rng.normal(size=(5, 19)).astype(np.float32)
    multiply_rows(left, factor, 0, 131, product)
    np.testing.assert_allclose(product, left @ factor, atol=1e-5)
