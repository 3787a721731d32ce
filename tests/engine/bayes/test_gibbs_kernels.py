import numpy as np

from app.engine.bayes.gibbs_kernels import draw_normals, draw_rows
from app.engine.bayes.gram import COLUMNS

N_ROWS = 40_000


def _identical_rows(n_ratings, weight=2.5, other_weight=1.0, seed=0):
    """Many rows with the same ratings: draws of one and the same conjugate posterior, each from its own stream."""
    rng = np.random.default_rng(seed)
    others = rng.normal(0, 0.6, (12, COLUMNS)).astype(np.float32)
    rated = np.arange(n_ratings, dtype=np.int32) % 12
    values = rng.normal(3.5, 1, n_ratings).astype(np.float32)
    root = rng.normal(0, 0.4, (COLUMNS, COLUMNS))
    precision = root @ root.T + 2 * np.eye(COLUMNS)
    centre = rng.normal(0, 0.5, COLUMNS).astype(np.float32)
    starts = np.arange(N_ROWS + 1, dtype=np.int64) * n_ratings
    drawn, expected = np.empty((2, N_ROWS, COLUMNS), np.float32)
    errors = np.empty(N_ROWS)
    draw_rows(
        *(0, N_ROWS, starts, np.tile(rated, N_ROWS), np.tile(values, N_ROWS), 3.0),
        *(others, np.full(12, other_weight, np.float32), np.full(N_ROWS, weight, np.float32)),
        *(precision, np.tile(centre, (N_ROWS, 1)), np.uint64(7), drawn, expected, errors),
    )
    y = others[rated].astype(np.float64)
    a = precision + weight * other_weight * y.T @ y
    mean = np.linalg.solve(a, precision @ centre + weight * other_weight * y.T @ (values - 3.0))
    return drawn.astype(np.float64), expected, errors, mean, np.linalg.inv(a), y, values


def test_draws_have_the_mean_and_covariance_of_the_conjugate_posterior():
    for n_ratings, other_weight in ((1, 1.0), (7, 1.0), (90, 0.3)):
        drawn, expected, _, mean, covariance, _, _ = _identical_rows(n_ratings, other_weight=other_weight)
        spread = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(expected, np.tile(mean, (N_ROWS, 1)), atol=2e-4)
        assert (np.abs(drawn.mean(axis=0) - mean) < 4.5 * spread / np.sqrt(N_ROWS)).all()
        found = np.cov(drawn.T)
        assert (np.abs(found - covariance) < 5.5 * np.outer(spread, spread) * np.sqrt(2 / N_ROWS)).all()


def test_a_row_without_ratings_is_not_drawn_and_expects_the_mean_of_its_prior():
    drawn, expected, errors, mean, _, _, _ = _identical_rows(0)
    np.testing.assert_allclose(expected, np.tile(mean, (N_ROWS, 1)), atol=2e-6)
    assert not drawn.any()
    assert not errors.any()


def test_squared_errors_are_those_that_the_draw_leaves():
    drawn, _, errors, _, _, y, values = _identical_rows(9)
    left = ((values - 3.0 - drawn @ y.T) ** 2).sum(axis=1)
    np.testing.assert_allclose(errors, left, rtol=1e-3, atol=1e-3)


def test_the_numbers_of_every_stream_are_standard_normal_and_of_no_other_stream():
    normals = np.empty((5000, COLUMNS))
    for row in range(5000):
        draw_normals(np.uint64(3), np.uint64(row), normals[row])
    flat = normals.ravel()
    assert abs(flat.mean()) < 4.5 / np.sqrt(flat.size)
    assert abs(flat.var() - 1) < 4.5 * np.sqrt(2 / flat.size)
    assert abs((flat**4).mean() - 3) < 4.5 * np.sqrt(96 / flat.size)
    assert np.abs(np.corrcoef(normals.T) - np.eye(COLUMNS)).max() < 5 / np.sqrt(5000)
    assert np.abs((normals[:-1] * normals[1:]).mean()) < 4.5 / np.sqrt(flat.size)
    other = np.empty(COLUMNS)
    draw_normals(np.uint64(4), np.uint64(0), other)
    assert not np.isclose(other, normals[0]).any()
