import numpy as np
import pytest

from app.engine.fold_in.cholesky import factorise, invert_positive, solve_transposed, solve_upper


def positive_definite(n):
    root = np.random.default_rng(n).normal(size=(n, n))
    return root @ root.T + 0.1 * np.eye(n)


@pytest.mark.parametrize("n", [1, 2, 17, 65])
def test_the_factor_is_numpys(n):
    matrix = positive_definite(n)
    upper = matrix.copy()
    factorise(upper)
    np.testing.assert_allclose(np.triu(upper), np.linalg.cholesky(matrix).T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 17, 65])
def test_two_substitutions_solve_the_system(n):
    matrix, vector = positive_definite(n), np.arange(1.0, n + 1)
    upper, solution = matrix.copy(), vector.copy()
    factorise(upper)
    solve_transposed(upper, solution)
    solve_upper(upper, solution)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, vector), rtol=1e-7)


def test_the_inverse_is_numpys_and_exactly_symmetric():
    matrix = positive_definite(33)
    inverse = np.empty_like(matrix)
    invert_positive(matrix, inverse)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-7, atol=1e-9)
    assert np.array_equal(inverse, inverse.T)
