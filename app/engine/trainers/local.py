"""SGD on the threads of this machine."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Matrix32, Rows, Vector32, Vector64
from app.engine.blocks import lay_out
from app.engine.dataset import Ratings
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.kernel import LearnBlocks, default_kernel_folder, load_kernel
from app.engine.lanes import aligned_matrix, padded
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.parts import ROWS_OF_A_PART, in_parts, n_parts_of, run_all
from app.engine.tally import mean_and_variance, tally
from app.engine.trainers.base import Diverged, EpochReport, Fit, FitCancelled, NoRatings, WarmStart
from app.engine.trainers.finish import finish

log = logging.getLogger(__name__)

_RATINGS_PER_THREAD = 250_000
"""Fewer ratings than this per thread cost more in hand-over than a further thread saves."""
_RATINGS_AT_ONCE = 8_000_000
"""Learned between two looks at whether the fit is cancelled: less than a tenth of a second."""
_NAP_SECONDS = 50e-6
_EXPLODED = 3.0
"""An error this many times that of predicting the mean for everybody is not on its way anywhere."""


@dataclass(slots=True)
class _State:
    """The parameters in the grid's order of rows, in units of `scale`, rows padded with zeros to 16 lanes."""

    user_factors: Matrix32
    item_factors: Matrix32
    user_bias: Vector32
    item_bias: Vector32

    def copy_to(self, other: _State, pool: Executor) -> None:
        """Bit by bit, on the threads of the pool."""
        parts = [(getattr(self, name), getattr(other, name)) for name in self.__slots__]
        halves = [(to[at::2], source[at::2]) for source, to in parts for at in range(2)]
        run_all(pool, np.copyto, halves)


class LocalTrainer:
    """Fits by grid-blocked SGD on n_threads threads (default: the cores this process may use).

    Compiled kernels are kept in kernel_folder (default: the user's cache folder). The number of threads changes the
    time of a fit and not one bit of its result.
    """

    def __init__(self, n_threads: int | None = None, kernel_folder: Path | None = None, loss: Loss = SQUARED) -> None:
        self.n_threads = n_threads or usable_cores()
        self.kernel_folder = kernel_folder or default_kernel_folder()
        self.loss = loss

    def fit(
        self,
        ratings: Ratings,
        hyperparameters: Hyperparameters,
        *,
        holdout: Ratings | None = None,
        start: WarmStart | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> Fit:
        """See `Trainer.fit`."""
        lesson = start.lesson if start else ratings
        if not len(lesson):
            raise NoRatings
        n_threads = max(1, min(self.n_threads, len(lesson) // _RATINGS_PER_THREAD))
        kernel = load_kernel(self.loss, padded(hyperparameters.n_factors), self.kernel_folder)
        with ThreadPoolExecutor(n_threads, thread_name_prefix="palate-sgd") as pool:
            run = _Run(ratings, hyperparameters, holdout, start, self.loss, kernel, pool, n_threads)
            return run.fit(on_epoch or (lambda _: None), is_cancelled or (lambda: False))


class _Run:
    """One fit, from the layout to the model."""

    def __init__(
        self,
        ratings: Ratings,
        hyperparameters: Hyperparameters,
        holdout: Ratings | None,
        start: WarmStart | None,
        loss: Loss,
        kernel: LearnBlocks,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        self.ratings = ratings
        self.settings = hyperparameters
        self.holdout = holdout if holdout is not None and len(holdout) else None
        self.lesson = start.lesson if start else ratings
        self.kernel = kernel
        self.pool = pool
        self.n_threads = n_threads
        self.counted = tally(ratings, pool)
        self.mean = start.mean if start else self.counted.mean
        self.scale = self.counted.spread if loss.is_scale_free else 1.0
        started = time.perf_counter()
        counted = self.counted if self.lesson is ratings else None
        n_columns = padded(hyperparameters.n_factors)
        self.grid = lay_out(self.lesson, n_columns, pool, n_threads, counted=counted, scale=self.scale)
        self.layout_seconds = time.perf_counter() - started
        # A warm fit has few epochs, perhaps one: falling in between, its steps still end at zero.
        self.noise_before = start.noise_variance if start else None
        self.falls_within_epochs = start is not None and hyperparameters.schedule == "linear"
        seeds = np.random.SeedSequence(hyperparameters.seed).spawn(2)
        self.first_factors, self.strata_order = (np.random.default_rng(seed) for seed in seeds)
        self.state = self._state_of(start) if start else self._first_state()

    def fit(self, on_epoch: Callable[[EpochReport], None], is_cancelled: Callable[[], bool]) -> Fit:
        """Epochs until the schedule, the patience or the caller ends them."""
        reports: list[EpochReport] = []
        best = self._empty_state()
        best_epoch = 0
        limits = self._error_limits()
        for epoch in range(1, self.settings.last_epoch + 1):
            report = self._epoch(epoch, is_cancelled)
            _refuse_divergence(report, *limits)
            reports.append(report)
            on_epoch(report)
            if _is_better(report, reports[best_epoch - 1] if best_epoch else None):
                best_epoch = epoch
                if self.holdout is not None and epoch < self.settings.last_epoch:
                    self.state.copy_to(best, self.pool)
            elif epoch - best_epoch >= self.settings.patience:
                break
        state = self.state if best_epoch == len(reports) else best
        model = self._model(state, reports[best_epoch - 1])
        return Fit(model, tuple(reports), best_epoch, self.layout_seconds)

    def _empty_state(self) -> _State:
        n_users, n_items = self.ratings.n_users, self.ratings.n_items
        n_columns = padded(self.settings.n_factors)
        return _State(
            aligned_matrix(n_users, n_columns),
            aligned_matrix(n_items, n_columns),
            np.zeros(n_users, np.float32),
            np.zeros(n_items, np.float32),
        )

    def _first_state(self) -> _State:
        from app.engine.trainers.measure import draw

        state = self._empty_state()
        for factors in (state.user_factors, state.item_factors):
            drawn = (int(self.first_factors.integers(2**62)), self.settings.n_factors, self.settings.initial_scale)
            in_parts(self.pool, draw, factors.shape[0], *drawn, factors, least=ROWS_OF_A_PART)
        return state

    def _state_of(self, start: WarmStart) -> _State:
        """A model's numbers in the grid's order and units: the inverse of `_model`."""
        state = self._empty_state()
        users, items = self.grid.users.row_at, self.grid.items.row_at
        scale = np.float32(self.scale)
        self._copy_rows(start.user_factors, users, 1.0 / math.sqrt(self.scale), state.user_factors)
        self._copy_rows(start.item_factors, items, 1.0 / math.sqrt(self.scale), state.item_factors)
        np.divide(start.user_bias[users], scale, out=state.user_bias)
        np.divide(start.item_bias[items], scale, out=state.item_bias)
        return state

    def _epoch(self, epoch: int, is_cancelled: Callable[[], bool]) -> EpochReport:
        """Every stratum once, in an order drawn from the seed."""
        started = time.perf_counter()
        learning_rate = self.settings.learning_rate_of(epoch)
        n_strata = self.grid.n_groups
        strata = self.strata_order.permutation(n_strata)
        fall = learning_rate / (self.settings.n_epochs - epoch + 1) if self.falls_within_epochs else 0.0
        rates = (learning_rate - fall * np.arange(n_strata) / n_strata).astype(np.float32)
        squared_errors = np.zeros(n_strata**2)
        at_once = max(1, n_strata * _RATINGS_AT_ONCE // max(1, len(self.lesson)))
        for first in range(0, n_strata, at_once):
            if is_cancelled():
                raise FitCancelled(epoch=epoch)
            part = slice(first, first + at_once)
            self._learn_strata(strata[part], rates[part], squared_errors)
        seconds = max(time.perf_counter() - started, 1e-9)
        return EpochReport(
            epoch=epoch,
            n_epochs=self.settings.last_epoch,
            learning_rate=learning_rate,
            train_rmse=self.scale * math.sqrt(squared_errors.sum() / len(self.lesson)),
            holdout_rmse=self._rmse(self.holdout) if self.holdout is not None else None,
            ratings_per_second=len(self.lesson) / seconds,
        )

    def _learn_strata(self, strata: npt.NDArray[np.int64], rates: Vector32, squared_errors: Vector64) -> None:
        """Strata one after the other: a block waits for those before it that share its users or its items."""
        grid, state = self.grid, self.state
        ratings = (grid.bundle_users, grid.bundle_lengths, grid.bundle_continues, grid.item_places, grid.values)
        blocks = np.concatenate([grid.stratum(number) for number in strata.tolist()])
        progress = np.zeros(1 + 2 * grid.n_groups, np.int64)
        penalties = (self.settings.regularization, self.settings.reg_bias)
        learned = (state.user_factors, state.item_factors, state.user_bias, state.item_bias, squared_errors)
        call = (*ratings, grid.table, blocks, rates, progress)
        rest = (self.mean / self.scale, *penalties, *learned)
        run_all(self.pool, self._learn_blocks, [(call, rest)] * self.n_threads)

    def _learn_blocks(self, call: tuple[object, ...], rest: tuple[object, ...]) -> None:
        """The kernel until no block is left, asleep where it would only wait: its core may be wanted by others."""
        waiting = self.kernel(*call, -1, *rest)
        while waiting >= 0:
            time.sleep(_NAP_SECONDS)
            waiting = self.kernel(*call, waiting, *rest)

    def _rmse(self, ratings: Ratings) -> float:
        from app.engine.trainers.measure import sum_squared_errors

        state, sums = self.state, np.zeros(n_parts_of(len(ratings)))
        in_parts(
            *(self.pool, sum_squared_errors, len(ratings), ratings.user_rows, ratings.item_rows, ratings.values),
            *(self.scale, self.mean / self.scale, self.grid.users.place_of, self.grid.items.place_of),
            *(state.user_factors, state.item_factors, state.user_bias, state.item_bias, sums),
        )
        return self.scale * math.sqrt(sums.sum() / len(ratings))

    def _error_limits(self) -> tuple[float, float]:
        """Train and hold-out errors beyond which the fit has exploded, from those of predicting the mean."""
        limit = _EXPLODED * self.counted.spread
        if self.holdout is None:
            return limit, limit
        mean, variance = mean_and_variance(self.holdout.values)
        return limit, max(limit, _EXPLODED * math.hypot(mean - self.mean, math.sqrt(variance)))

    def _model(self, state: _State, report: EpochReport) -> FactorModel:
        users, items = self.grid.users.place_of, self.grid.items.place_of
        scale = np.float32(self.scale)
        return finish(
            self.ratings,
            mean=self.mean,
            item_bias=state.item_bias[items] * scale,
            item_factors=self._rows(state.item_factors, items),
            user_bias=state.user_bias[users] * scale,
            user_factors=self._rows(state.user_factors, users),
            train_rmse=report.train_rmse,
            holdout=self.holdout,
            seed=self.settings.seed,
            counted=self.counted,
            pool=self.pool,
            noise_before=self.noise_before,
        )

    def _rows(self, factors: Matrix32, places: Rows) -> Matrix32:
        """The model's vectors out of the grid's."""
        found = np.empty((places.size, self.settings.n_factors), np.float32)
        self._copy_rows(factors, places, math.sqrt(self.scale), found)
        return found

    def _copy_rows(self, source: Matrix32, rows: Rows, factor: float, target: Matrix32) -> None:
        from app.engine.trainers.measure import copy_rows

        in_parts(self.pool, copy_rows, rows.size, source, rows, factor, target, least=ROWS_OF_A_PART)


def usable_cores() -> int:
    """Cores this process may run on, where the system tells; else all of them."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _is_better(report: EpochReport, best: EpochReport | None) -> bool:
    """Lower on the hold-out; without one, every later epoch is taken for better."""
    if best is None or report.holdout_rmse is None or best.holdout_rmse is None:
        return True
    return report.holdout_rmse < best.holdout_rmse


def _refuse_divergence(report: EpochReport, train_limit: float, holdout_limit: float) -> None:
    errors = {"training": (report.train_rmse, train_limit), "hold-out": (report.holdout_rmse, holdout_limit)}
    for part, (error, limit) in errors.items():
        if error is None or error <= limit:
            continue
        reason = (
            f"the {part} error rose to {error:.4g}, more than {limit:.4g}"
            if math.isfinite(error)
            else f"the {part} error is not a finite number"
        )
        raise Diverged(epoch=report.epoch, learning_rate=report.learning_rate, reason=reason)
