from concurrent.futures import ThreadPoolExecutor

import numpy as np

from app.engine.bayes.average import by_user_and_item
from app.engine.data.features import DAMPING, standardised, sum_rated, who_rated_what
from tests.engine.worlds import planted

RATINGS = planted(n_users=120, n_items=80, n_ratings=2500).ratings


def _raw(n_threads=1, n_directions=6):
    users, items, _ = by_user_and_item(RATINGS)
    with ThreadPoolExecutor(n_threads) as pool:
        return users, items, who_rated_what(pool, users, items, n_directions, 0)


def test_the_directions_are_the_leading_singular_vectors_of_who_rated_what():
    users, items, (of_users, of_items, _) = _raw()
    dense = np.zeros((120, 80))
    dense[RATINGS.user_rows, RATINGS.item_rows] = 1
    dense /= np.sqrt(users.counts + DAMPING)[:, None] * np.sqrt(items.counts + DAMPING)
    u, s, vt = np.linalg.svd(dense, full_matrices=False)
    for direction in range(6):
        assert abs(of_users[:, direction] @ u[:, direction]) > 0.98 * s[direction]
        assert abs(of_items[:, direction] @ vt[direction]) > 0.98 * s[direction]
    np.testing.assert_allclose(of_users[:, 6], np.log(users.counts + DAMPING), rtol=1e-6)


def test_a_users_directions_are_a_sum_over_the_items_rated():
    users, _, (of_users, _, projection) = _raw()
    rated = RATINGS.item_rows[RATINGS.of_user(17)]
    np.testing.assert_allclose(
        projection[rated].sum(axis=0) / np.sqrt(rated.size + DAMPING), of_users[17, :6], atol=1e-5
    )
    assert users.counts[17] == rated.size


def test_the_number_of_threads_changes_no_bit():
    for one, two in zip(_raw(1)[2], _raw(2)[2], strict=True):
        np.testing.assert_array_equal(one, two)


def test_standardised_features_have_no_mean_and_a_feature_without_spread_is_nothing():
    raw = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]], np.float32)
    features = standardised(raw, np.array([True, True, False]))
    np.testing.assert_allclose(features.values[:2], [[-1, 0], [1, 0]])
    assert np.isfinite(features.values).all()


def test_weighted_sums_over_the_rated_are_those_of_the_dense_matrix():
    rng = np.random.default_rng(2)
    dense = rng.random((6, 9)) < 0.4
    starts = np.concatenate([[0], np.cumsum(dense.sum(axis=1))]).astype(np.int64)
    others = np.nonzero(dense)[1].astype(np.int32)
    weights, other_weights = rng.random(6).astype(np.float32), rng.random(9).astype(np.float32)
    vectors = rng.normal(size=(9, 4)).astype(np.float32)
    sums = np.empty((6, 4), np.float32)
    sum_rated(0, 6, starts, others, weights, other_weights, vectors, sums)
    np.testing.assert_allclose(sums, weights[:, None] * (dense @ (other_weights[:, None] * vectors)), atol=1e-5)
