"""Toy worlds with known answers."""

from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix32
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel, Posterior, UserPrior
from app.engine.fold_in.intervals import LEVELS, N_BUCKETS


@dataclass(frozen=True)
class PlantedWorld:
    """Ratings made by known biases and known vectors, and the ratings that nobody gave."""

    ratings: Ratings
    unseen: Ratings
    noise: float


def planted(
    n_users: int = 300,
    n_items: int = 200,
    n_ratings: int = 20_000,
    rank: int = 2,
    noise: float = 0.1,
    seed: int = 0,
) -> PlantedWorld:
    """r = 3 + b_u + b_i + p.q + noise, biases of deviation 0.4, p.q of deviation 0.5; 2,000 ratings are kept back."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(n_users * n_items)[: n_ratings + 2000]
    users, items = np.divmod(pairs, n_items)
    p, q = rng.normal(0, (0.5**2 / rank) ** 0.25, (2, max(n_users, n_items), rank))
    values = 3 + rng.normal(0, 0.4, n_users)[users] + rng.normal(0, 0.4, n_items)[items]
    values += (p[users] * q[items]).sum(axis=1) + rng.normal(0, noise, pairs.size)
    shape = {"n_users": n_users, "n_items": n_items}
    known, kept_back = slice(0, n_ratings), slice(n_ratings, None)
    return PlantedWorld(
        Ratings.of(users[known], items[known], values[known], **shape),
        Ratings.of(users[kept_back], items[kept_back], values[kept_back], **shape),
        noise,
    )


def random_model(n_users: int = 5, n_items: int = 40, k: int = 6, seed: int = 0) -> FactorModel:
    """Any model: every number drawn, the prior with full covariance."""
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 0.3, (k + 1, k + 1))
    return model_of(
        rng.normal(0, 0.7, (n_items, k)),
        item_bias=rng.normal(0, 0.4, n_items),
        user_factors=rng.normal(0, 0.7, (n_users, k)),
        prior=UserPrior(rng.normal(0, 0.3, k + 1), root @ root.T + 0.05 * np.eye(k + 1)),
        seed=seed,
    )


def model_of(
    item_factors: object,
    *,
    item_bias: object = None,
    user_factors: object = None,
    prior: UserPrior | None = None,
    item_counts: object = None,
    item_means: object = None,
    mean: float = 3.0,
    noise_variance: float = 0.5,
    popularity_shrinkage: float = 5.0,
    seed: int = 0,
) -> FactorModel:
    """A model with these item vectors; what is not given is plain."""
    q = _matrix(item_factors)
    n_items, k = q.shape
    p = _matrix(user_factors) if user_factors is not None else np.zeros((1, k), np.float32)
    rng = np.random.default_rng(seed)
    return FactorModel(
        mean=mean,
        item_bias=_vector(item_bias, n_items, 0.0),
        item_factors=q,
        user_bias=rng.normal(0, 0.3, p.shape[0]).astype(np.float32),
        user_factors=p,
        user_prior=prior or UserPrior(np.zeros(k + 1), np.eye(k + 1)),
        noise_variance=noise_variance,
        item_counts=_vector(item_counts, n_items, 1.0).astype(np.int32),
        item_means=_vector(item_means, n_items, mean),
        user_counts=np.ones(p.shape[0], np.int32),
        popularity_shrinkage=popularity_shrinkage,
    )


def _matrix(values: object) -> Matrix32:
    return np.ascontiguousarray(np.asarray(values), dtype=np.float32)


def _vector(values: object, n: int, default: float) -> np.ndarray:
    return np.full(n, default, np.float32) if values is None else np.asarray(values, np.float32)


def random_posterior(model: FactorModel, seed: int = 1) -> Posterior:
    """What an average over models would know besides, every number drawn."""
    rng = np.random.default_rng(seed)
    size = model.n_factors + 1
    root = rng.normal(0, 0.3, (size, size))
    return Posterior(
        item_noise=rng.uniform(1, 2, model.n_items).astype(np.float32),
        implicit_factors=rng.normal(0, 0.1, (model.n_items, size)).astype(np.float32),
        implicit_count_slope=rng.normal(0, 0.1, size),
        implicit_intercept=rng.normal(0, 0.1, size),
        implicit_covariance=root @ root.T + 0.05 * np.eye(size),
        reach=np.linspace(0, 2.6, len(LEVELS)),
        user_widening=np.linspace(1.2, 0.9, N_BUCKETS),
        item_widening=np.linspace(1.1, 0.9, N_BUCKETS),
        holdout_scales=np.ones(2),
        exposure_factors=rng.normal(0, 0.3, (model.n_items, 4)).astype(np.float32),
        prior_exposure=rng.normal(0, 1.0, 4),
    )
