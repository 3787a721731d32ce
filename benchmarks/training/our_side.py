"""Palate's side of the training benchmarks: fits through the engine's public classes, timed from arrays in memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.catalog import SQUARED
from app.engine.sgd.grid import build_grid, n_groups_for
from app.engine.sgd.kernel_cache import default_kernel_folder, load_kernel
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.trainer import EpochReport
from app.engine.simd.lanes import aligned_matrix, padded
from benchmarks.datasets import DataSet, Part

L1_BYTES = 24 * 1024
"""Vectors of one block of the tiny data set: they fit every common first-level cache, with room for the ratings."""
TINY_GROUPS = 8
"""The engine's smallest grid."""
USERS_OF_A_BLOCK = 16
"""Four bundles or more: the next users are always others."""
TINY_SWEEPS = 40
"""Times the number of groups: how often each tiny block is learned."""
HARMLESS_STEP = 0.003
"""The tiny data set is noise: a small step keeps its error from exploding and costs the same."""


@dataclass(frozen=True, slots=True)
class TimedFit:
    """One fit and where its time went."""

    seconds: float
    """From `Ratings` to `FactorModel`: layout, first vectors, epochs, prior and popularity."""
    n_ratings: int
    epochs: tuple[EpochReport, ...]
    model: FactorModel

    @property
    def epoch_seconds(self) -> list[float]:
        """Learning alone, without any look at a hold-out."""
        return [self.n_ratings / report.ratings_per_second for report in self.epochs]

    @property
    def rate(self) -> float:
        """Ratings per second after the first epoch, which touches its memory for the first time."""
        settled = self.epoch_seconds[1:] or self.epoch_seconds
        return self.n_ratings * len(settled) / sum(settled)


def ratings_of(data: DataSet, part: Part) -> Ratings:
    """The engine's view of one part; parts are in canonical order already."""
    return Ratings(part.users, part.items, part.values, data.n_users, data.n_items)


def timed_fit(
    ratings: Ratings, n_threads: int, cores: Sequence[int], *, holdout: Ratings | None = None, **settings: Any
) -> TimedFit:
    """One fit on these cores alone."""
    hyperparameters = Hyperparameters(**settings)
    with pinned_to(cores):
        started = time.perf_counter()
        fit = LocalTrainer(n_threads).fit(ratings, hyperparameters, holdout=holdout)
        seconds = time.perf_counter() - started
    return TimedFit(seconds, len(ratings), fit.epochs, fit.model)


def layout_seconds(ratings: Ratings, n_factors: int, n_threads: int, cores: Sequence[int]) -> float:
    """Time to put the ratings into the grid, part of every fit."""
    with pinned_to(cores), ThreadPoolExecutor(n_threads) as pool:
        started = time.perf_counter()
        build_grid(ratings, padded(n_factors), pool, n_threads)
        return time.perf_counter() - started


def rmse(model: FactorModel, part: Part) -> float:
    """Of the trained vectors' predictions, not clipped to the scale."""
    total = 0.0
    for start in range(0, len(part), 1 << 17):
        chunk = slice(start, start + (1 << 17))
        errors = part.values[chunk] - model.predict(part.users[chunk], part.items[chunk])
        total += float((errors.astype(np.float64) ** 2).sum())
    return float(np.sqrt(total / len(part)))


def tiny_ratings(n_factors: int, per_run: int, seed: int = 0) -> Ratings:
    """Ratings of so few users and items that the vectors of any one block of the grid fit the first-level cache.

    Every user has about so many ratings in each block, as users of the real data have: bundles are as long as theirs.
    Where items are few, pairs repeat, which `Ratings.of` would refuse and the kernel does not mind.
    """
    n_users = TINY_GROUPS * USERS_OF_A_BLOCK
    n_items = TINY_GROUPS * (L1_BYTES // (4 * padded(n_factors)) - USERS_OF_A_BLOCK)
    n_each = TINY_GROUPS * per_run
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(n_items, dtype=np.int32), (n_users, -(-n_each // n_items)))
    items = rng.permuted(rows, axis=1)[:, :n_each].ravel()
    users = np.repeat(np.arange(n_users, dtype=np.int32), n_each)
    return Ratings(users, items, rng.normal(0.0, 1.0, items.size).astype(np.float32), n_users, n_items)


def ratings_per_run(ratings: Ratings, n_factors: int) -> int:
    """What a user has in one block of the grid, on average."""
    n_groups = n_groups_for(len(ratings), ratings.n_items, padded(n_factors))
    return max(1, round(len(ratings) / (len(np.unique(ratings.user_rows)) * n_groups)))


def first_level_rate(n_factors: int, per_run: int, core: int) -> float:
    """Ratings per second of the kernel alone, each block of `tiny_ratings` learned many times before the next."""
    ratings = tiny_ratings(n_factors, per_run)
    kernel = load_kernel(SQUARED, padded(n_factors), default_kernel_folder())
    with pinned_to([core]), ThreadPoolExecutor(1) as pool:
        grid = build_grid(ratings, padded(n_factors), pool, 1)
        vectors = [aligned_matrix(n, padded(n_factors)) for n in (ratings.n_users, ratings.n_items)]
        parameters = (*vectors, *(np.zeros(len(rows), np.float32) for rows in vectors))
        penalties, errors = (0.05, 0.05), np.zeros(grid.n_groups**2)
        rates = np.full(TINY_SWEEPS, HARMLESS_STEP, np.float32)
        seconds = 0.0
        for block in range(grid.n_groups**2):
            blocks = np.full(TINY_SWEEPS * grid.n_groups, block)
            progress = np.zeros(1 + 2 * grid.n_groups, np.int64)
            started = time.perf_counter()
            kernel(grid.kernel_arguments, (blocks, rates), progress, -1, 0.0, *penalties, parameters, errors)
            seconds += time.perf_counter() - started
    return len(ratings) * TINY_SWEEPS * grid.n_groups / seconds


def block_bytes(ratings: Ratings, n_factors: int) -> int:
    """Vectors of the largest block, users and items."""
    with ThreadPoolExecutor(1) as pool:
        grid = build_grid(ratings, padded(n_factors), pool, 1)
    rows = [int(np.diff(side.starts).max()) for side in (grid.users, grid.items)]
    return sum(rows) * 4 * padded(n_factors)


@contextlib.contextmanager
def pinned_to(cores: Sequence[int]) -> Iterator[None]:
    """Threads started in here run on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
