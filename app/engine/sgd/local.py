"""SGD on the threads of this machine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Matrix32, Rows, Vector32, Vector64
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import Tally, mean_and_variance, tally
from app.engine.evaluation import errors_of, mean_error, rmse
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.losses.codegen import decay_of
from app.engine.losses.derivatives import derivatives_of
from app.engine.losses.units import TrainingUnits, training_units
from app.engine.parallel import ROWS_OF_A_PART, in_parts, n_parts_of, run_all, usable_cores
from app.engine.sgd.check_loss import check_loss, kernel_slopes
from app.engine.sgd.finalize import finish
from app.engine.sgd.grid import lay_out
from app.engine.sgd.kernel_cache import LearnBlocks, default_kernel_folder, load_kernel
from app.engine.sgd.trainer import Diverged, EpochReport, Fit, FitCancelled, NoRatings, WarmStart
from app.engine.simd.lanes import aligned_matrix, padded

log = logging.getLogger(__name__)

_RATINGS_PER_THREAD = 250_000
"""Fewer ratings than this per thread cost more in hand-over than a further thread saves."""
_RATINGS_AT_ONCE = 20_000_000
"""Learned in some tenths of a second, between two looks at whether the fit is cancelled; threads wait there."""
_NAP_SECONDS = 50e-6
_EXPLODED = 3.0
"""An error this many times that of predicting the mean for everybody is not on its way anywhere."""


_LOOKED_AT = 100_000
"""Ratings looked at together in search of one that is no number."""


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
        with ThreadPoolExecutor(n_threads, thread_name_prefix="palate-sgd") as pool:
            counted = tally(ratings, pool)
            mean = float(self.loss.rating_of(start.mean)) if start else counted.mean
            units = training_units(self.loss, mean, counted.spread)
            kernel = load_kernel(units.loss, padded(hyperparameters.n_factors), self.kernel_folder)
            slopes_of = kernel_slopes(kernel, padded(hyperparameters.n_factors))
            check_loss(units, slopes_of, float(ratings.values.min()), float(ratings.values.max()))
            if not self.loss.is_squared:
                derivatives_of(self.loss)  # what folding in needs: better refused now than after the fit
            run = _Run(ratings, hyperparameters, holdout, start, self.loss, units, counted, kernel, pool, n_threads)
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
        units: TrainingUnits,
        counted: Tally,
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
        self.counted = counted
        self.loss = loss
        self.decay = 1.0 if (decay := decay_of(loss)) is None else decay
        self.mean = start.mean if start else units.mean
        self.scale = units.scale
        self.units = units
        started = time.perf_counter()
        of_lesson = counted if self.lesson is ratings else None
        n_columns = padded(hyperparameters.n_factors)
        self.grid = lay_out(self.lesson, n_columns, pool, n_threads, counted=of_lesson, scale=self.scale)
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
            _refuse_divergence(report, *limits, self._first_not_finite)
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
        from app.engine.sgd.epoch_kernels import draw

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
            holdout_error=self._holdout_error(),
        )

    def _learn_strata(self, strata: npt.NDArray[np.int64], rates: Vector32, squared_errors: Vector64) -> None:
        """Strata one after the other: a block waits for those before it that share its users or its items."""
        grid, state = self.grid, self.state
        ratings = (grid.bundle_users, grid.bundle_lengths, grid.bundle_continues, grid.item_places, grid.values)
        blocks = np.concatenate([grid.stratum(number) for number in strata.tolist()])
        progress = np.zeros(1 + 2 * grid.n_groups, np.int64)
        penalties = (self.settings.regularization * self.decay, self.settings.reg_bias * self.decay)
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
        from app.engine.sgd.epoch_kernels import sum_squared_errors

        if self.loss.link != "identity":
            users, items = self.grid.users.place_of[ratings.user_rows], self.grid.items.place_of[ratings.item_rows]
            return rmse(self.loss.rating_of(self._scores(users, items)), ratings.values)
        state, sums = self.state, np.zeros(n_parts_of(len(ratings)))
        in_parts(
            *(self.pool, sum_squared_errors, len(ratings), ratings.user_rows, ratings.item_rows, ratings.values),
            *(self.scale, self.mean / self.scale, self.grid.users.place_of, self.grid.items.place_of),
            *(state.user_factors, state.item_factors, state.user_bias, state.item_bias, sums),
        )
        return self.scale * math.sqrt(sums.sum() / len(ratings))

    def _scores(self, user_places: Rows, item_places: Rows) -> Vector32:
        """mean + b_u + b_i + p.q, in the units of training."""
        state = self.state
        dots = np.einsum("nk,nk->n", state.user_factors[user_places], state.item_factors[item_places])
        scores = np.float32(self.mean / self.scale) + state.user_bias[user_places] + state.item_bias[item_places] + dots
        return np.asarray(scores, np.float32)

    def _holdout_error(self) -> float | None:
        """Mean declared error of the hold-out, by which the best epoch is chosen; squared errors have their RMSE."""
        if self.holdout is None or self.loss.is_squared:
            return None
        users, items = self.grid.users.place_of, self.grid.items.place_of
        scores = self._scores(users[self.holdout.user_rows], items[self.holdout.item_rows]) * self.scale
        return mean_error(self.loss, scores, self.holdout.values)

    def _error_limits(self) -> tuple[float, float]:
        """Train and hold-out errors beyond which the fit has exploded, from those of predicting the mean."""
        limit = _EXPLODED * self.counted.spread
        if self.holdout is None:
            return limit, limit
        mean, variance = mean_and_variance(self.holdout.values)
        off = mean - float(self.loss.rating_of(self.mean))
        return limit, max(limit, _EXPLODED * math.hypot(off, math.sqrt(variance)))

    def _first_not_finite(self) -> str:
        """Which rating of the lesson has a prediction or a step that is no number, in words."""
        users, items = self.grid.users.place_of, self.grid.items.place_of
        for first in range(0, len(self.lesson), _LOOKED_AT):
            part = slice(first, first + _LOOKED_AT)
            with np.errstate(all="ignore"):
                scores = self._scores(users[self.lesson.user_rows[part]], items[self.lesson.item_rows[part]])
                errors = errors_of(self.units.loss, scores, self.lesson.values[part] / np.float32(self.scale))
            bad = np.flatnonzero(~(np.isfinite(scores) & np.isfinite(errors)))
            if bad.size:
                place = first + int(bad[0])
                user_row, item_row = self.lesson.user_rows[place], self.lesson.item_rows[place]
                return (
                    f", first at rating {place} ({self.lesson.values[place]:g} by user row {user_row} of item row "
                    f"{item_row})"
                )
        return ""

    def _model(self, state: _State, report: EpochReport) -> FactorModel:
        users, items = self.grid.users.place_of, self.grid.items.place_of
        scale = np.float32(self.scale)
        return finish(
            self.ratings,
            loss=self.loss,
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
        from app.engine.sgd.epoch_kernels import copy_rows

        in_parts(self.pool, copy_rows, rows.size, source, rows, factor, target, least=ROWS_OF_A_PART)


def _is_better(report: EpochReport, best: EpochReport | None) -> bool:
    """Lower on the hold-out; without one, every later epoch is taken for better."""
    if best is None or report.holdout_rmse is None or best.holdout_rmse is None:
        return True
    if report.holdout_error is not None and best.holdout_error is not None:
        return report.holdout_error < best.holdout_error
    return report.holdout_rmse < best.holdout_rmse


def _refuse_divergence(
    report: EpochReport, train_limit: float, holdout_limit: float, find_rating: Callable[[], str]
) -> None:
    errors = {"training": (report.train_rmse, train_limit), "hold-out": (report.holdout_rmse, holdout_limit)}
    for part, (error, limit) in errors.items():
        if error is None or error <= limit:
            continue
        reason = (
            f"the {part} error rose to {error:.4g}, more than {limit:.4g}"
            if math.isfinite(error)
            else f"the {part} error is not a finite number{find_rating()}"
        )
        raise Diverged(epoch=report.epoch, learning_rate=report.learning_rate, reason=reason)
