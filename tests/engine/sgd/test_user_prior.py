import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.user_prior import estimate_user_prior, with_measured_noise
from tests.conftest import KERNELS
from tests.engine.worlds import planted


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def crowd(n_users, seed=0):
    """Users drawn from a known Gaussian over [bias, two factors]."""
    rng = np.random.default_rng(seed)
    covariance = np.array([[0.2, 0.05, 0.0], [0.05, 0.1, -0.03], [0.0, -0.03, 0.05]])
    x = rng.multivariate_normal([0.1, 0.5, -0.2], covariance, n_users).astype(np.float32)
    return np.ascontiguousarray(x[:, 0]), np.ascontiguousarray(x[:, 1:]), covariance


def test_many_users_reveal_the_crowd_they_come_from(pool):
    bias, factors, covariance = crowd(50_000)
    prior = estimate_user_prior(bias, factors, np.ones(50_000, np.int32), value_variance=1.0, pool=pool)
    assert prior.mean == pytest.approx([0.1, 0.5, -0.2], abs=0.01)
    np.testing.assert_allclose(prior.covariance, covariance, atol=0.01)


def test_users_without_ratings_have_no_say(pool):
    bias, factors, _ = crowd(100)
    counts = np.ones(100, np.int32)
    counts[50:] = 0
    some = estimate_user_prior(bias, factors, counts, 1.0, pool)
    few = estimate_user_prior(bias[:50], factors[:50], counts[:50], 1.0, pool)
    assert np.array_equal(some.covariance, few.covariance)


@pytest.mark.parametrize("n_users", [1, 2, 5])
def test_a_prior_from_hardly_any_users_is_positive_definite_and_lets_biases_vary(n_users, pool):
    bias, factors, _ = crowd(n_users)
    prior = estimate_user_prior(bias, factors, np.ones(n_users, np.int32), value_variance=1.0, pool=pool)
    assert np.linalg.eigvalsh(prior.covariance).min() > 0
    assert 0.05 < prior.covariance[0, 0] < 0.5


def test_the_crowd_is_the_same_for_every_number_of_threads():
    bias, factors, _ = crowd(5000)

    def covariance(n_threads):
        with ThreadPoolExecutor(n_threads) as pool:
            return estimate_user_prior(bias, factors, np.ones(5000, np.int32), 1.0, pool).covariance.tobytes()

    assert covariance(1) == covariance(3)


def test_noise_is_measured_on_ratings_held_out(pool):
    world = planted(noise=0.4)
    settings = Hyperparameters(n_factors=8, n_epochs=30, regularization=0.03)
    model = LocalTrainer(1, KERNELS).fit(world.ratings, settings).model
    measured = with_measured_noise(
        dataclasses.replace(model, noise_variance=5.0), world.ratings, world.unseen, seed=0, pool=pool
    )
    assert measured.noise_variance == pytest.approx(0.4**2, rel=0.35)


def test_a_few_held_out_ratings_move_the_noise_a_little(pool):
    world = planted(noise=0.4)
    model = LocalTrainer(1, KERNELS).fit(world.ratings, Hyperparameters(n_factors=4, n_epochs=5)).model
    two = world.unseen.take(np.arange(2))
    measured = with_measured_noise(model, world.ratings, two, seed=0, pool=pool).noise_variance
    assert measured == pytest.approx(model.noise_variance, rel=0.3)


def test_the_noise_is_the_same_for_every_number_of_threads():
    world = planted(noise=0.4)
    model = LocalTrainer(1, KERNELS).fit(world.ratings, Hyperparameters(n_factors=4, n_epochs=5)).model

    def noise(n_threads):
        with ThreadPoolExecutor(n_threads) as pool:
            return with_measured_noise(model, world.ratings, world.unseen, 0, pool).noise_variance

    assert noise(1) == noise(3)
