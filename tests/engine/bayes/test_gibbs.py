from concurrent.futures import ThreadPoolExecutor

import numpy as np

from app.engine.bayes.average import by_user_and_item
from app.engine.bayes.gibbs import Chain, Side, _wishart
from app.engine.bayes.gram import COLUMNS
from app.engine.data.features import Features, Sparse
from app.engine.linalg import cut
from tests.engine.worlds import planted

POOL = ThreadPoolExecutor(1)


def _side(vectors, features):
    n = vectors.shape[0]
    sparse = Sparse(np.arange(n + 1), np.zeros(n, np.int32), np.ones(n, np.int32), cut(np.ones(n, int), 400))
    plain = Features(features.astype(np.float32), np.zeros(features.shape[1]), np.ones(features.shape[1]))
    return Side.of(POOL, sparse, np.zeros(0, np.float32), plain, vectors)


def test_wishart_draws_have_the_mean_of_their_distribution():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    inverse_scale = root @ root.T + np.eye(4)
    mean = np.mean([_wishart(rng, 30, inverse_scale) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, 30 * np.linalg.inv(inverse_scale), atol=0.35)


def test_the_prior_that_is_drawn_is_the_one_that_the_vectors_come_from():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(6000, 3))
    link, mean = rng.normal(0, 0.3, (3, COLUMNS)), rng.normal(0, 0.3, COLUMNS)
    spread = np.linspace(0.1, 0.5, COLUMNS)
    vectors = mean + features @ link + spread * rng.normal(size=(6000, COLUMNS))
    side = _side(vectors, features)
    for _ in range(5):
        side.draw_prior(POOL, rng)
    np.testing.assert_allclose(side.mean, mean, atol=0.04)
    np.testing.assert_allclose(side.beta, link, atol=0.04)
    np.testing.assert_allclose(np.sqrt(np.diag(np.linalg.inv(side.precision))), spread, rtol=0.06)
    np.testing.assert_allclose(side.prior_means, side.mean + features @ side.beta, atol=1e-4)


def test_rows_without_ratings_have_the_mean_of_the_prior_and_no_say_in_it():
    rng = np.random.default_rng(2)
    features, vectors = rng.normal(size=(900, 3)), rng.normal(size=(900, COLUMNS))
    few, all_of_them = _side(vectors[:300], features[:300]), _side(vectors, features)
    is_rated = np.arange(900) < 300
    starts = np.concatenate([[0], np.cumsum(is_rated)])
    sparse = Sparse(starts, np.zeros(300, np.int32), is_rated.astype(np.int32), all_of_them.sparse.parts)
    plain = Features(features.astype(np.float32), np.zeros(3), np.ones(3))
    side = Side.of(POOL, sparse, np.zeros(300, np.float32), plain, vectors)
    for one in (few, side):
        one.draw_prior(POOL, np.random.default_rng(3))
    np.testing.assert_allclose(side.precision, few.precision, rtol=1e-4)
    np.testing.assert_allclose(side.beta, few.beta, atol=1e-5)
    side.draw_rows(POOL, few, 0.0, 1)
    np.testing.assert_allclose(side.sample()[300:], side.mean + features[300:] @ side.beta, atol=1e-4)


def _swept(n_threads, n_sweeps=12):
    world = planted(n_users=400, n_items=300, n_ratings=20_000, noise=0.3)
    users, items, values = by_user_and_item(world.ratings)
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(n_threads) as pool:
        sides = []
        for sparse, ordered in ((users, world.ratings.values), (items, values)):
            n = sparse.counts.size
            features = Features(rng.normal(size=(n, 2)).astype(np.float32), np.zeros(2), np.ones(2))
            sides.append(Side.of(pool, sparse, ordered, features, rng.normal(0, 0.1, (n, COLUMNS))))
        chain = Chain(pool, *sides, 3.0, 1.0, seed=3)
        for _ in range(n_sweeps):
            chain.draw_items()
            chain.draw_users()
    return chain


def test_the_number_of_threads_changes_no_bit_of_a_chain():
    one, two = _swept(1), _swept(2)
    assert len(one.users.sparse.parts) > 1
    np.testing.assert_array_equal(one.users.vectors, two.users.vectors)
    np.testing.assert_array_equal(one.items.vectors, two.items.vectors)
    assert one.noise_variance == two.noise_variance


def test_the_noise_of_the_ratings_is_estimated():
    chain = _swept(1, n_sweeps=60)
    assert 0.06 < chain.noise_variance < 0.12  # 0.3 squared is 0.09
