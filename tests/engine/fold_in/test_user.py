import numpy as np
import pytest

from app.engine.fold_in.user import UserVector


def test_the_covariance_is_the_inverse_of_the_precision_and_ignores_the_lower_triangle():
    precision = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
    upper = np.linalg.cholesky(precision).T + np.tril(np.full((3, 3), np.nan), -1)
    user = UserVector(0.0, np.zeros(2, np.float32), upper, n_ratings=1)
    assert user.covariance() == pytest.approx(np.linalg.inv(precision))
