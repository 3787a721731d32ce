"""A Gibbs chain over the vectors of users and items.

The model (Salakhutdinov & Mnih 2008, with prior means as in Macau: Simm et al. 2017):

    r_ui ~ Normal(mean + x_u.y_i, 1/a_u)      x_u ~ Normal(m + B'f_u, L^-1)      the same for y_i
    L ~ Wishart    m | L ~ Normal(0, (b0 L)^-1)    B | L ~ MatrixNormal(0, I/ridge, L^-1)    ridge ~ Gamma
    a_u ~ Gamma(v/2, v s/2)    s ~ Gamma

Each user has a noise variance of their own (Lakshminarayanan, Bouchard & Archambeau 2011) around the common s; v is
NOISE_RATINGS. f_u are features of the row (see `app.engine.data.features`). Biases are not separate: a column that is
constant on one side holds those of the other. A sweep draws each variable once, given the latest draws of the rest.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from app.engine.arrays import Matrix32, Matrix64, Vector32, Vector64
from app.engine.bayes.gibbs_kernels import draw_rows
from app.engine.bayes.gram import COLUMNS
from app.engine.data.features import Features, Sparse
from app.engine.data.statistics import mean_and_variance
from app.engine.fold_in.kernels import NOISE_RATINGS
from app.engine.linalg import cross_products, product
from app.engine.parallel import run_all
from app.engine.simd.lanes import aligned_matrix, padded
from app.engine.splitmix64 import mixed

_MEAN_WEIGHT = 2.0
"""b0: rows that the hyperprior's mean of zero weighs."""
_WEAK = 1e-3
"""Shape and rate of the Gamma priors."""
_INITIAL_RIDGE = 20.0
_RIDGES = (1e-2, 1e6)
"""Bounds of the ridge, which could otherwise go to zero or to infinity."""
MIN_NOISE_SHARE = 0.01
"""Least share of the ratings' variance that is noise, so that ratings that can be explained exactly stay uncertain."""


@dataclass(slots=True)
class Side:
    """One side of the chain: its ratings, its features, and its state."""

    sparse: Sparse
    values: Vector32
    features: Matrix32
    """[n, D]: the features, a column of ones, and zeros up to a multiple of 16."""
    n_features: int
    feature_products: Matrix64
    """features' features over the rows with ratings; the others do not enter the prior."""
    vectors: Matrix32
    """As drawn last; 0 where there are no ratings."""
    expected: Matrix32
    """The means of the distributions that the vectors were drawn from."""
    prior_means: Matrix32
    squared_errors: Vector64
    weights: Vector32
    """Precisions of the users' noise; ones for items."""
    mean: Vector64 = field(default_factory=lambda: np.zeros(COLUMNS))
    beta: Matrix64 = field(default_factory=lambda: np.zeros((0, COLUMNS)))
    """B [n_features, COLUMNS]: weights of the features in the prior means."""
    precision: Matrix64 = field(default_factory=lambda: np.eye(COLUMNS))
    ridge: float = _INITIAL_RIDGE
    scale: float = 1.0
    """Standard deviation of the ratings: products of two vectors are ratings, so squares of one are in their unit."""

    @classmethod
    def of(cls, pool: Executor, sparse: Sparse, values: Vector32, features: Features, vectors: Matrix32) -> Side:
        n, d = features.values.shape
        wide = np.zeros((n, padded(d + 1)), np.float32)
        wide[:, :d] = features.values
        wide[:, d] = 1.0
        state = [aligned_matrix(n, COLUMNS) for _ in range(3)]
        is_rated = sparse.counts > 0
        state[0][is_rated] = vectors[is_rated]
        known = wide if is_rated.all() else wide * is_rated[:, None]
        products = cross_products(pool, sparse.parts, known, known)
        drawn, expected, prior_means = state
        weights = np.ones(n, np.float32)
        side = cls(sparse, values, wide, d, products, drawn, expected, prior_means, np.zeros(n), weights)
        side.beta = np.zeros((d, COLUMNS))
        return side

    @property
    def n_rated(self) -> int:
        return int(np.count_nonzero(self.sparse.counts))

    def sample(self) -> Matrix32:
        """The vectors drawn last, and the prior means of rows without ratings."""
        return np.where(self.sparse.counts[:, None] > 0, self.vectors, self.expected)

    def squares(self, pool: Executor) -> Matrix64:
        """sum x x' over the rows with ratings, as drawn last."""
        return cross_products(pool, self.sparse.parts, self.vectors, self.vectors)

    def draw_prior(self, pool: Executor, rng: np.random.Generator) -> None:
        """Draws mean, precision, feature weights and ridge given the vectors, and sets the prior mean of every row."""
        d, n = self.n_features, self.n_rated
        sums = cross_products(pool, self.sparse.parts, self.features, self.vectors)
        squares = self.squares(pool)
        of_features, feature_sums = self.feature_products[:d, :d], self.feature_products[:d, d]
        products, total = sums[:d], sums[d]
        rest = total - feature_sums @ self.beta
        residual = squares - products.T @ self.beta - self.beta.T @ products + self.beta.T @ of_features @ self.beta
        scatter = residual - np.outer(rest, rest) / (n + _MEAN_WEIGHT)
        scatter += self.scale * np.eye(COLUMNS) + self.ridge * self.beta.T @ self.beta
        self.precision = _wishart(rng, COLUMNS + n + d, (scatter + scatter.T) / 2)
        root = _root_of_inverse(self.precision)
        self.mean = rest / (n + _MEAN_WEIGHT) + root @ rng.standard_normal(COLUMNS) / np.sqrt(n + _MEAN_WEIGHT)
        if d:
            cross = products - np.outer(feature_sums, self.mean)
            ridged = of_features + self.ridge * np.eye(d)
            self.beta = np.asarray(np.linalg.solve(ridged, cross), np.float64)
            self.beta += _root_of_inverse(ridged) @ rng.standard_normal((d, COLUMNS)) @ root.T
            squared_weights = float(np.einsum("fk,kl,fl->", self.beta, self.precision, self.beta))
            ridge = rng.gamma(_WEAK + d * COLUMNS / 2, 1.0 / (_WEAK + squared_weights / 2))
            self.ridge = float(np.clip(ridge, *_RIDGES))
        weights = np.zeros((self.features.shape[1], COLUMNS))
        weights[:d], weights[d] = self.beta, self.mean
        product(pool, self.sparse.parts, self.features, weights, self.prior_means)

    def draw_rows(self, pool: Executor, other: Side, mean: float, key: int) -> None:
        """Draws every row given the other side, each from a random stream of its own.

        With a_u the weights of users and 1 those of items, the precision of the noise is their product.
        """

        def draw(first: int, last: int) -> None:
            draw_rows(
                *(first, last, self.sparse.starts, self.sparse.others, self.values, mean, other.vectors, other.weights),
                *(self.weights, self.precision, self.prior_means, key),
                *(self.vectors, self.expected, self.squared_errors),
            )

        run_all(pool, draw, self.sparse.parts)


class Chain:
    """Both sides and the noise. The same seed gives the same bits for any number of threads."""

    def __init__(self, pool: Executor, users: Side, items: Side, mean: float, noise_variance: float, seed: int) -> None:
        self.pool = pool
        self.users = users
        self.items = items
        self.mean = mean
        variance = max(mean_and_variance(users.values)[1], 1e-6)
        users.scale = items.scale = variance**0.5
        self._min_noise = MIN_NOISE_SHARE * variance
        self.noise_variance = max(noise_variance, self._min_noise)
        """s: that of the typical user."""
        users.weights[:] = 1.0 / self.noise_variance
        self.n_sweeps = 0
        self._rng = np.random.default_rng([seed, 11])
        self._key = int(mixed(seed))

    def draw_items(self) -> None:
        self.items.draw_prior(self.pool, self._rng)
        self.items.draw_rows(self.pool, self.users, self.mean, self._next_key(0))

    def draw_users(self) -> None:
        """And the users' noise, from the residuals of the draws."""
        self.users.draw_prior(self.pool, self._rng)
        self.users.draw_rows(self.pool, self.items, self.mean, self._next_key(1))
        self._draw_noise()
        self.n_sweeps += 1

    def _draw_noise(self) -> None:
        counts, errors = self.users.sparse.counts, self.users.squared_errors
        rates = (NOISE_RATINGS * self.noise_variance + errors) / 2
        precisions = self._rng.gamma((NOISE_RATINGS + counts) / 2, 1.0 / rates)
        self.users.weights[:] = precisions
        is_rated = counts > 0
        shape, rate = NOISE_RATINGS / 2 * is_rated.sum(), NOISE_RATINGS / 2 * precisions[is_rated].sum()
        drawn = float(self._rng.gamma(_WEAK + shape, 1.0 / (_WEAK + rate)))
        self.noise_variance = max(drawn, self._min_noise)

    def _next_key(self, side: int) -> int:
        return int(mixed(self._key ^ (2 * self.n_sweeps + side + 1)))


def _wishart(rng: np.random.Generator, degrees: float, inverse_scale: Matrix64) -> Matrix64:
    """A draw from Wishart(degrees, inverse_scale^-1), by Bartlett's decomposition (Bartlett 1933)."""
    k = inverse_scale.shape[0]
    triangle = np.tril(rng.standard_normal((k, k)), -1)
    triangle[np.diag_indices(k)] = np.sqrt(rng.chisquare(degrees - np.arange(k)))
    root = _root_of_inverse(inverse_scale) @ triangle
    drawn: Matrix64 = root @ root.T
    return drawn


def _root_of_inverse(matrix: Matrix64) -> Matrix64:
    """R with R R' = matrix^-1."""
    root: Matrix64 = np.linalg.inv(np.linalg.cholesky(matrix)).T
    return root
