"""Synthetic ratings from a known model, at the sizes of the well-known public data sets.

A rating is mean + user bias + item bias + p.q + noise, rounded to half stars from 0.5 to 5. The planted factors have a
decaying spectrum, items follow a shifted Zipf law, popular items are rated higher, and users' activity
is log-normal. The same shape gives the same bits every time on one machine with one version of NumPy.

The planted model has biases, as Palate's has and LIBMF's has not, and absolute errors on it say nothing about films.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEAN = 3.45
USER_BIAS_SD, ITEM_BIAS_SD, POPULARITY_BIAS = 0.38, 0.40, 0.18
INTERACTION_SD, NOISE_SD = 0.55, 0.72
ACTIVITY_SD, LEAST_ACTIVITY, MOST_OF_CATALOGUE = 1.1, 15.0, 0.35
ZIPF_EXPONENT, ZIPF_SHIFT = 1.1, 0.004
CHUNK = 1 << 17
"""Ratings valued at a time: two gathered factor matrices of this many rows stay small beside the ratings themselves."""

Rows = npt.NDArray[np.int32]
Vector32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """Size and seed of one synthetic data set."""

    n_users: int
    n_items: int
    n_ratings: int
    seed: int
    n_planted: int = 40


SHAPES = {
    "S1": Shape(6_000, 4_000, 1_000_000, seed=1),
    "S20": Shape(138_000, 27_000, 20_000_000, seed=2),
}


def generate(shape: Shape) -> tuple[Rows, Rows, Vector32]:
    """users, items and values of all ratings, sorted by user, then item."""
    rng = np.random.default_rng(shape.seed)
    activity = _activity(shape, rng)
    popularity = _popularity(shape, rng)
    pairs = _pairs(shape, activity, popularity, rng)
    users, items = (pairs // shape.n_items).astype(np.int32), (pairs % shape.n_items).astype(np.int32)
    del pairs
    return users, items, _values(shape, users, items, popularity, rng)


def _activity(shape: Shape, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Share of the ratings that each user writes: log-normal, with lower and upper bounds."""
    ratings_each: npt.NDArray[np.float64] = rng.lognormal(0.0, ACTIVITY_SD, shape.n_users)
    ratings_each *= shape.n_ratings / ratings_each.sum()
    ratings_each = np.clip(ratings_each, LEAST_ACTIVITY, MOST_OF_CATALOGUE * shape.n_items)
    ratings_each /= ratings_each.sum()
    return ratings_each


def _popularity(shape: Shape, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Probability of each item: 1 / (rank + shift)^1.1 in random order."""
    shifted_rank = np.arange(shape.n_items) + ZIPF_SHIFT * shape.n_items + 5
    weights: npt.NDArray[np.float64] = rng.permutation(shifted_rank**-ZIPF_EXPONENT)
    weights /= weights.sum()
    return weights


def _pairs(
    shape: Shape, activity: npt.NDArray[np.float64], popularity: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Sorted, distinct user * n_items + item: drawn independently, repeats dropped and drawn again."""
    of_user, of_item = np.cumsum(activity), np.cumsum(popularity)
    pairs = np.empty(0, np.int64)
    while pairs.size < shape.n_ratings:
        n_draws = int((shape.n_ratings - pairs.size) * 1.15) + 1000
        users = np.searchsorted(of_user, np.sort(rng.random(n_draws)) * of_user[-1], side="right")
        items = np.searchsorted(of_item, rng.random(n_draws) * of_item[-1], side="right")
        users = np.minimum(users, shape.n_users - 1)
        items = np.minimum(items, shape.n_items - 1)
        pairs = np.unique(np.concatenate([pairs, users * shape.n_items + items]))
    surplus = rng.choice(pairs.size, pairs.size - shape.n_ratings, replace=False)
    return np.delete(pairs, surplus)


def _values(
    shape: Shape, users: Rows, items: Rows, popularity: npt.NDArray[np.float64], rng: np.random.Generator
) -> Vector32:
    """Half stars of the planted model."""
    p, q = _planted_factors(shape, rng)
    log_popularity = np.log(popularity)
    liked = (log_popularity - log_popularity.mean()) / log_popularity.std()
    user_bias = (USER_BIAS_SD * rng.standard_normal(shape.n_users)).astype(np.float32)
    item_bias = ITEM_BIAS_SD * rng.standard_normal(shape.n_items) + POPULARITY_BIAS * liked
    item_bias = item_bias.astype(np.float32)
    values = np.empty(users.size, np.float32)
    for start in range(0, users.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        u, i = users[chunk], items[chunk]
        noise = np.float32(NOISE_SD) * rng.standard_normal(u.size, np.float32)
        interaction = np.einsum("nk,nk->n", p[u], q[i], optimize=False)
        values[chunk] = np.float32(MEAN) + user_bias[u] + item_bias[i] + interaction + noise
    return np.clip(np.round(values * 2) / 2, 0.5, 5.0)


def _planted_factors(shape: Shape, rng: np.random.Generator) -> tuple[Vector32, Vector32]:
    """The f-th product has standard deviation ~ f^-1/2 and their sum INTERACTION_SD; item norms are uneven."""
    spectrum = np.arange(1, shape.n_planted + 1) ** -0.5
    spectrum *= INTERACTION_SD / np.linalg.norm(spectrum)
    root = np.sqrt(spectrum).astype(np.float32)
    p = rng.standard_normal((shape.n_users, shape.n_planted), np.float32) * root
    q = rng.standard_normal((shape.n_items, shape.n_planted), np.float32) * root
    return p, q * rng.lognormal(-0.08, 0.4, (shape.n_items, 1)).astype(np.float32)
