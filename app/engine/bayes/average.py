"""Posterior averaging: from an SGD fit to the mean of the predictions of all models that explain the ratings.

A Gibbs chain (`bayes.gibbs`) starts at the SGD vectors and samples models from the posterior. The mean of their
predictions is almost exactly of low rank, so that it is one ordinary model, narrower and better than the fit that it
started from (`bayes.compress`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from app.engine.arrays import Matrix32, Vector32, Vector64, starts_of
from app.engine.bayes.compress import PosteriorMeans, compress
from app.engine.bayes.gibbs import Chain, Side
from app.engine.bayes.gibbs_kernels import add_predictions
from app.engine.bayes.gram import COLUMNS
from app.engine.bayes.low_rank import truncate
from app.engine.data.features import Sparse, standardised, who_rated_what
from app.engine.data.ratings import Ratings
from app.engine.data.sorting import sort_by_first
from app.engine.data.statistics import count_rows
from app.engine.factors import FactorModel
from app.engine.linalg import cut, product
from app.engine.sgd.trainer import EpochReport, FitCancelled, WarmStart

MAX_RANK = 16
_WIDTH = 32
"""Columns of the running mean: twice the rank of the model, so that a merge drops next to nothing."""
_ROWS_PER_DIRECTION = 10
"""Users and items per direction of who rated what, at least: few rows cannot determine many weights."""
_WORK_PER_ROW = 400
"""Cost of drawing a row's 16 numbers, in ratings."""
_UNRATED_SHARE = 0.5
"""Features of an unrated item: halfway between the mean item (it may be new) and those of an unpopular one."""
_SETTLED = 2e-4
"""Relative fall of the hold-out error, over a quarter of the planned sweeps, below which the chain ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PosteriorSettings:
    """How long a chain runs, and how many directions of who rated what are its features."""

    n_sweeps: int = 200
    n_burn_in: int = 20
    n_directions: int = 32
    max_rank: int = MAX_RANK


@dataclass(frozen=True, slots=True)
class PosteriorFit:
    """The averaged model, and how it was made."""

    model: FactorModel
    sweeps: tuple[EpochReport, ...]
    """Every vector drawn once. train_rmse is the sampled noise, holdout_rmse that of the mean of all samples so far."""
    features_seconds: float


def average_posterior(
    start: FactorModel | WarmStart,
    ratings: Ratings,
    *,
    seed: int,
    n_threads: int,
    settings: PosteriorSettings | None = None,
    holdout: Ratings | None = None,
    first: PosteriorFit | None = None,
    item_features: Matrix32 | None = None,
    on_sweep: Callable[[EpochReport], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> PosteriorFit:
    """The mean over a chain that starts at trained vectors, compressed to one model over the same rows.

    With a hold-out the chain ends when the error of the running mean has settled, and scales, rank and intervals are
    fitted to it. Without one they are those of `first`, a fit that had one, and so is the number of sweeps.
    item_features [n_items, d]: side information on the items as numbers, categories for example. Raises FitCancelled
    soon after is_cancelled returns true. The number of threads changes no bit of the result.
    """
    settings = settings or PosteriorSettings()
    if first is not None:
        settings = dataclasses.replace(settings, n_sweeps=len(first.sweeps))
    # Small matrices are slower on several threads of a BLAS than on one, and their last bits depend on how many.
    with threadpool_limits(1), ThreadPoolExecutor(n_threads, thread_name_prefix="palate-posterior") as pool:
        running = _RunningMeans(pool, start, ratings, holdout, item_features, settings, seed)
        sweeps = running.sweep(on_sweep or (lambda _: None), is_cancelled or (lambda: False))
        model = compress(pool, running.means(), ratings, holdout, first.model if first else None, settings.max_rank)
    return PosteriorFit(model, sweeps, running.features_seconds)


class _RunningMeans:
    """One chain and the means over its samples."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        start: FactorModel | WarmStart,
        ratings: Ratings,
        holdout: Ratings | None,
        item_features: Matrix32 | None,
        settings: PosteriorSettings,
        seed: int,
    ) -> None:
        self.pool = pool
        self.ratings = ratings
        self.holdout = holdout if holdout is not None and len(holdout) else None
        self.settings = settings
        started = time.perf_counter()
        users, items, values_by_item = by_user_and_item(ratings)
        n_directions = max(1, min(settings.n_directions, min(ratings.n_users, ratings.n_items) // _ROWS_PER_DIRECTION))
        of_users, of_items, self.projection = who_rated_what(pool, users, items, n_directions, seed)
        n_who_rated = of_items.shape[1]
        if item_features is not None:
            of_items = np.hstack([of_items, item_features.astype(np.float32)])
        self.user_features = standardised(of_users, users.counts > 0)
        item_side_features = standardised(of_items, items.counts > 0)
        item_side_features.values[items.counts == 0, :n_who_rated] *= _UNRATED_SHARE
        self.features_seconds = time.perf_counter() - started
        left, right = _sampler_columns(pool, start, users, items)
        self.chain = Chain(
            pool,
            Side.of(pool, users, ratings.values, self.user_features, left),
            Side.of(pool, items, values_by_item, item_side_features, right),
            start.mean,
            start.noise_variance,
            seed,
        )
        self.averages_items = ratings.n_items >= ratings.n_users
        self.n_samples = 0
        self._unmerged: list[tuple[Matrix32, Matrix32]] = []
        self._left = np.zeros((ratings.n_users, 0), np.float32)
        self._right = np.zeros((ratings.n_items, 0), np.float32)
        self._item_variance = np.zeros(ratings.n_items)
        self._noise = 0.0
        self._ridge = 0.0
        self._held_out_sums = np.zeros(len(self.holdout) if self.holdout is not None else 0)

    def sweep(
        self, on_sweep: Callable[[EpochReport], None], is_cancelled: Callable[[], bool]
    ) -> tuple[EpochReport, ...]:
        """Sweeps until as many as planned are done or the hold-out error has settled; raises FitCancelled."""
        reports: list[EpochReport] = []
        n_burn_in = min(self.settings.n_burn_in, self.settings.n_sweeps - 1)
        for sweep in range(1, self.settings.n_sweeps + 1):
            started = time.perf_counter()
            for draw in (self.chain.draw_items, self.chain.draw_users):
                if is_cancelled():
                    raise FitCancelled(epoch=sweep)
                draw()
                if sweep > n_burn_in and (draw == self.chain.draw_items) == self.averages_items:
                    self._add_sample()
            seconds = max(time.perf_counter() - started, 1e-9)
            report = EpochReport(
                epoch=sweep,
                n_epochs=self.settings.n_sweeps,
                learning_rate=0.0,
                train_rmse=math.sqrt(self.chain.noise_variance),
                holdout_rmse=self._holdout_rmse(),
                ratings_per_second=len(self.ratings) / seconds,
            )
            reports.append(report)
            on_sweep(report)
            if self._has_settled(reports, n_burn_in):
                break
        return tuple(reports)

    def means(self) -> PosteriorMeans:
        """Over the samples so far."""
        self._merge()
        n = self.n_samples
        return PosteriorMeans(
            mean=self.chain.mean,
            left=self._left / np.float32(n),
            right=self._right,
            noise_variance=self._noise / n,
            item_variance=self._item_variance / n,
            ridge=self._ridge / n,
            user_features=self.user_features,
            projection=self.projection,
            user_parts=self.chain.users.sparse.parts,
            item_parts=self.chain.items.sparse.parts,
        )

    def _add_sample(self) -> None:
        """Adds the draw, with the conditional expectation of the side drawn last in its place (Rao-Blackwell).

        That is the side with more rows, and so with fewer ratings each.
        """
        users, items = self.chain.users, self.chain.items
        left = users.sample() if self.averages_items else users.expected.copy()
        right = items.expected.copy() if self.averages_items else items.sample()
        self._unmerged.append((left, right))
        if len(self._unmerged) * COLUMNS == _WIDTH:
            self._merge()
        self.n_samples += 1
        if self.holdout is not None:
            add_predictions(self.holdout.user_rows, self.holdout.item_rows, left, right, self._held_out_sums)
        self._noise += self.chain.noise_variance
        self._ridge += users.ridge
        self._item_variance += self._variance_of_items()

    def _variance_of_items(self) -> Vector64:
        """Of each item the mean over users of (x.(y - E y))^2, with y the draw: x' cov(y) x in expectation.

        Of an item without ratings that expectation under the prior.
        """
        users, items = self.chain.users, self.chain.items
        mean_square = users.squares(self.pool) / users.n_rated
        residual = items.vectors - items.expected
        projected = product(self.pool, items.sparse.parts, residual, mean_square)
        variance: Vector64 = np.einsum("nk,nk->n", projected, residual).astype(np.float64)
        variance[items.sparse.counts == 0] = np.trace(np.linalg.solve(items.precision, mean_square))
        return variance

    def _merge(self) -> None:
        """Adds the unmerged samples to the running sum of predictions, and truncates it to its width."""
        if not self._unmerged:
            return
        left = np.hstack([self._left, *(left for left, _ in self._unmerged)])
        right = np.hstack([self._right, *(right for _, right in self._unmerged)])
        self._unmerged.clear()
        users, items = self.chain.users.sparse.parts, self.chain.items.sparse.parts
        self._left, self._right, _ = truncate(self.pool, left, right, _WIDTH, users, items)

    def _holdout_rmse(self) -> float | None:
        if self.holdout is None or not self.n_samples:
            return None
        errors = self.holdout.values - self.chain.mean - self._held_out_sums / self.n_samples
        return math.sqrt(float((errors**2).mean()))

    def _has_settled(self, reports: list[EpochReport], n_burn_in: int) -> bool:
        window = max(self.settings.n_sweeps // 4, 10)
        if len(reports) <= n_burn_in + window:
            return False
        before, now = reports[-1 - window].holdout_rmse, reports[-1].holdout_rmse
        return before is not None and now is not None and before - now < _SETTLED * before


def by_user_and_item(ratings: Ratings) -> tuple[Sparse, Sparse, Vector32]:
    """The ratings by user and by item, and the values in the order of items."""
    by_item = (np.empty_like(ratings.item_rows), np.empty_like(ratings.user_rows), np.empty_like(ratings.values))
    sort_by_first((ratings.item_rows, ratings.user_rows, ratings.values), ratings.n_items, by_item)
    counts = count_rows(ratings.user_rows, ratings.n_users), count_rows(ratings.item_rows, ratings.n_items)
    users, items = (
        Sparse(starts_of(own), others, own, cut(own, _WORK_PER_ROW))
        for own, others in zip(counts, (ratings.item_rows, by_item[1]), strict=True)
    )
    return users, items, by_item[2]


def _sampler_columns(
    pool: ThreadPoolExecutor, start: FactorModel | WarmStart, users: Sparse, items: Sparse
) -> tuple[Matrix32, Matrix32]:
    """b_u + b_i + p.q as vectors of the sampler: the best approximation with COLUMNS columns.

    Both sides have the same mean square, as both priors do.
    """
    n_users, n_items = start.user_bias.size, start.item_bias.size
    left = np.column_stack([start.user_bias, np.ones(n_users), start.user_factors]).astype(np.float32)
    right = np.column_stack([np.ones(n_items), start.item_bias, start.item_factors]).astype(np.float32)
    narrow = truncate(pool, left, right, COLUMNS, users.parts, items.parts)
    balance = np.float32((n_users / max(n_items, 1)) ** 0.25)
    return narrow.left * balance, narrow.right / balance
