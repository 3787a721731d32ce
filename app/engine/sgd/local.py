"""SGD on the threads of this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Matrix32, Rows, Vector32, Vector64
from app.engine.data.ratings import Ratings
from app.engine.data.statistics import mean_and_variance, rating_statistics
from app.engine.evaluation import errors_of, mean_error, rmse
from app.engine.factors import FactorModel
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import SQUARED
from app.engine.losses.derivatives import decay_of, derivatives_of
from app.engine.losses.units import training_units
from app.engine.parallel import ROWS_OF_A_PART, in_parts, n_parts_of, run_all, usable_cores
from app.engine.sgd.epoch_kernels import copy_rows, draw, sum_squared_errors
from app.engine.sgd.finalize import finalize
from app.engine.sgd.gradient_check import check_gradient, kernel_slopes
from app.engine.sgd.grid import build_grid
from app.engine.sgd.kernel_cache import SgdKernel, default_kernel_folder, load_kernel
from app.engine.sgd.trainer import Diverged, EpochReport, Fit, FitCancelled, NoRatings, WarmStart
from app.engine.simd.lanes import aligned_matrix, padded

_RATINGS_PER_THREAD = 250_000
"""Fewer ratings than this per thread cost more in hand-over than a further thread saves."""
_RATINGS_PER_CALL = 20_000_000
"""Learned in some tenths of a second between two checks for cancellation; threads wait for each other there."""
_SLEEP_SECONDS = 50e-6
_DIVERGED = 3.0
"""An error this many times that of predicting the mean means divergence."""
_RATINGS_PER_SCAN = 100_000
"""Ratings whose predictions are checked together when the error is not finite."""


_Parameters = tuple[Matrix32, Matrix32, Vector32, Vector32]
"""What is learned: user and item factors, user and item biases, in the grid's order of rows and in units of `scale`.

Vectors are padded with zeros to 16 lanes.
"""


class LocalTrainer:
    """Fits by grid-blocked SGD on n_threads threads (default: the cores this process may use).

    Compiled kernels are stored in kernel_folder (default: the user's cache folder). The number of threads changes the
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
        ratings_to_learn = start.ratings_to_learn if start else ratings
        if not len(ratings_to_learn):
            raise NoRatings
        n_threads = max(1, min(self.n_threads, len(ratings_to_learn) // _RATINGS_PER_THREAD))
        with ThreadPoolExecutor(n_threads, thread_name_prefix="palate-sgd") as pool:
            run = _SgdRun(self, ratings, hyperparameters, holdout, start, pool, n_threads)
            return run.fit(on_epoch or (lambda _: None), is_cancelled or (lambda: False))


class _SgdRun:
    """One fit, from the grid to the model."""

    def __init__(
        self,
        trainer: LocalTrainer,
        ratings: Ratings,
        hyperparameters: Hyperparameters,
        holdout: Ratings | None,
        start: WarmStart | None,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        self.ratings = ratings
        self.settings = hyperparameters
        self.holdout = holdout if holdout is not None and len(holdout) else None
        self.ratings_to_learn = start.ratings_to_learn if start else ratings
        self.pool = pool
        self.n_threads = n_threads
        self.n_columns = padded(hyperparameters.n_factors)
        self.loss = loss = trainer.loss
        self.decay = 1.0 if (decay := decay_of(loss)) is None else decay
        self.statistics = rating_statistics(ratings, pool)
        mean = float(loss.rating_of(start.mean)) if start else self.statistics.mean
        self.units = training_units(loss, mean, self.statistics.spread)
        self.mean = start.mean if start else self.units.mean
        self.scale = self.units.scale
        self.kernel = self._checked_kernel(trainer.kernel_folder)
        started = time.perf_counter()
        known = self.statistics if self.ratings_to_learn is ratings else None
        arguments = (self.ratings_to_learn, self.n_columns, pool, n_threads)
        self.grid = build_grid(*arguments, statistics=known, scale=self.scale)
        self.layout_seconds = time.perf_counter() - started
        self.earlier_noise = start.noise_variance if start else None
        # A warm fit has few epochs, perhaps one: its step falls within each epoch, so that it still ends at zero.
        self.falls_within_epochs = start is not None and hyperparameters.schedule == "linear"
        seeds = np.random.SeedSequence(hyperparameters.seed).spawn(2)
        self.first_factors, self.strata_order = (np.random.default_rng(seed) for seed in seeds)
        self.parameters = self._parameters_of(start) if start else self._first_parameters()

    def _checked_kernel(self, folder: Path) -> SgdKernel:
        """The compiled kernel of the loss; raises InvalidLoss where the loss has no usable derivatives."""
        kernel = load_kernel(self.units.loss, self.n_columns, folder)
        low, high = float(self.ratings.values.min()), float(self.ratings.values.max())
        check_gradient(self.units, kernel_slopes(kernel, self.n_columns), low, high)
        if not self.loss.is_squared:
            derivatives_of(self.loss)  # folding in needs them: better refused now than after the fit
        return kernel

    def fit(self, on_epoch: Callable[[EpochReport], None], is_cancelled: Callable[[], bool]) -> Fit:
        """Runs epochs until the schedule, the patience or the caller ends them."""
        reports: list[EpochReport] = []
        best = self._zeros()
        best_epoch = 0
        limits = {"training": _DIVERGED * self.statistics.spread, "hold-out": self._holdout_limit()}
        for epoch in range(1, self.settings.last_epoch + 1):
            report = self._epoch(epoch, is_cancelled)
            self._refuse_divergence(report, limits)
            reports.append(report)
            on_epoch(report)
            if _is_better(report, reports[best_epoch - 1] if best_epoch else None):
                best_epoch = epoch
                if self.holdout is not None and epoch < self.settings.last_epoch:
                    pairs = list(zip(best, self.parameters, strict=True))
                    run_all(self.pool, np.copyto, [(to[at::2], now[at::2]) for to, now in pairs for at in range(2)])
            elif epoch - best_epoch >= self.settings.patience:
                break
        parameters = self.parameters if best_epoch == len(reports) else best
        model = self._model(parameters, reports[best_epoch - 1])
        return Fit(model, tuple(reports), best_epoch, self.layout_seconds)

    def _zeros(self) -> _Parameters:
        n_users, n_items = self.ratings.n_users, self.ratings.n_items
        factors = aligned_matrix(n_users, self.n_columns), aligned_matrix(n_items, self.n_columns)
        return (*factors, np.zeros(n_users, np.float32), np.zeros(n_items, np.float32))

    def _first_parameters(self) -> _Parameters:
        parameters = self._zeros()
        for factors in parameters[:2]:
            drawn = (int(self.first_factors.integers(2**62)), self.settings.n_factors, self.settings.initial_scale)
            in_parts(self.pool, draw, factors.shape[0], *drawn, factors, least=ROWS_OF_A_PART)
        return parameters

    def _parameters_of(self, start: WarmStart) -> _Parameters:
        """A model's parameters in the grid's order and units: the inverse of `_model`."""
        parameters = user_factors, item_factors, user_bias, item_bias = self._zeros()
        users, items = self.grid.users.row_at, self.grid.items.row_at
        self._copy_rows(start.user_factors, users, 1.0 / math.sqrt(self.scale), user_factors)
        self._copy_rows(start.item_factors, items, 1.0 / math.sqrt(self.scale), item_factors)
        np.divide(start.user_bias[users], np.float32(self.scale), out=user_bias)
        np.divide(start.item_bias[items], np.float32(self.scale), out=item_bias)
        return parameters

    def _epoch(self, epoch: int, is_cancelled: Callable[[], bool]) -> EpochReport:
        """Learns every stratum once, in an order drawn from the seed."""
        started = time.perf_counter()
        learning_rate = self.settings.learning_rate_of(epoch)
        n_strata = self.grid.n_groups
        strata = self.strata_order.permutation(n_strata)
        fall = learning_rate / (self.settings.n_epochs - epoch + 1) if self.falls_within_epochs else 0.0
        rates = (learning_rate - fall * np.arange(n_strata) / n_strata).astype(np.float32)
        squared_errors = np.zeros(n_strata**2)
        n_per_call = max(1, n_strata * _RATINGS_PER_CALL // max(1, len(self.ratings_to_learn)))
        for first in range(0, n_strata, n_per_call):
            if is_cancelled():
                raise FitCancelled(epoch=epoch)
            part = slice(first, first + n_per_call)
            self._learn_strata(strata[part], rates[part], squared_errors)
        seconds = max(time.perf_counter() - started, 1e-9)
        return EpochReport(
            epoch=epoch,
            n_epochs=self.settings.last_epoch,
            learning_rate=learning_rate,
            train_rmse=self.scale * math.sqrt(squared_errors.sum() / len(self.ratings_to_learn)),
            holdout_rmse=self._rmse(self.holdout) if self.holdout is not None else None,
            ratings_per_second=len(self.ratings_to_learn) / seconds,
            holdout_error=self._holdout_error(),
        )

    def _learn_strata(self, strata: npt.NDArray[np.int64], rates: Vector32, squared_errors: Vector64) -> None:
        """Strata one after the other: a block waits for those before it that share its users or its items."""
        grid = self.grid
        blocks = np.concatenate([grid.stratum(number) for number in strata.tolist()])
        progress = np.zeros(1 + 2 * grid.n_groups, np.int64)
        penalties = (self.settings.regularization * self.decay, self.settings.reg_bias * self.decay)
        what = (grid.kernel_arguments, (blocks, rates), progress)
        how = (self.mean / self.scale, *penalties, self.parameters, squared_errors)
        run_all(self.pool, self._learn_blocks, [(what, how)] * self.n_threads)

    def _learn_blocks(self, what: tuple[object, ...], how: tuple[object, ...]) -> None:
        """Runs the kernel until no block is left; sleeps where it would only wait, so that others can use the core."""
        waiting = self.kernel(*what, -1, *how)
        while waiting >= 0:
            time.sleep(_SLEEP_SECONDS)
            waiting = self.kernel(*what, waiting, *how)

    def _rmse(self, ratings: Ratings) -> float:
        if self.loss.link != "identity":
            return rmse(self.loss.rating_of(self._scores(ratings.user_rows, ratings.item_rows)), ratings.values)
        sums = np.zeros(n_parts_of(len(ratings)))
        positions = (self.grid.users.position_of, self.grid.items.position_of)
        arguments = (ratings.columns, self.scale, self.mean / self.scale, positions, self.parameters, sums)
        in_parts(self.pool, sum_squared_errors, len(ratings), *arguments)
        return self.scale * math.sqrt(sums.sum() / len(ratings))

    def _scores(self, user_rows: Rows, item_rows: Rows) -> Vector32:
        """mean + b_u + b_i + p.q, in the units of training."""
        users, items = self.grid.users.position_of[user_rows], self.grid.items.position_of[item_rows]
        user_factors, item_factors, user_bias, item_bias = self.parameters
        dots = np.einsum("nk,nk->n", user_factors[users], item_factors[items])
        return np.asarray(np.float32(self.mean / self.scale) + user_bias[users] + item_bias[items] + dots, np.float32)

    def _holdout_error(self) -> float | None:
        """Mean declared error of the hold-out, by which the best epoch is chosen; None for squared errors."""
        if self.holdout is None or self.loss.is_squared:
            return None
        scores = self._scores(self.holdout.user_rows, self.holdout.item_rows) * self.scale
        return mean_error(self.loss, scores, self.holdout.values)

    def _holdout_limit(self) -> float:
        """Hold-out error beyond which the fit has diverged, from those of predicting the mean."""
        if self.holdout is None:
            return math.inf
        mean, variance = mean_and_variance(self.holdout.values)
        off = mean - float(self.loss.rating_of(self.mean))
        return _DIVERGED * max(self.statistics.spread, math.hypot(off, math.sqrt(variance)))

    def _refuse_divergence(self, report: EpochReport, limits: Mapping[str, float]) -> None:
        errors = {"training": report.train_rmse, "hold-out": report.holdout_rmse}
        for part, error in errors.items():
            if error is None or error <= limits[part]:
                continue
            reason = f"the {part} error rose to {error:.4g}, more than {limits[part]:.4g}"
            if not math.isfinite(error):
                reason = f"the {part} error is not a finite number{self._first_not_finite()}"
            raise Diverged(epoch=report.epoch, learning_rate=report.learning_rate, reason=reason)

    def _first_not_finite(self) -> str:
        """Names the first rating whose prediction or error is not finite."""
        ratings = self.ratings_to_learn
        for first in range(0, len(ratings), _RATINGS_PER_SCAN):
            part = slice(first, first + _RATINGS_PER_SCAN)
            with np.errstate(all="ignore"):
                scores = self._scores(ratings.user_rows[part], ratings.item_rows[part])
                errors = errors_of(self.units.loss, scores, ratings.values[part] / np.float32(self.scale))
            bad = np.flatnonzero(~(np.isfinite(scores) & np.isfinite(errors)))
            if bad.size:
                at = first + int(bad[0])
                user_row, item_row = ratings.user_rows[at], ratings.item_rows[at]
                return f", first at rating {at} ({ratings.values[at]:g} by user row {user_row} of item row {item_row})"
        return ""

    def _model(self, parameters: _Parameters, report: EpochReport) -> FactorModel:
        """The model of these parameters, in the order of its own rows."""
        users, items = self.grid.users.position_of, self.grid.items.position_of
        user_factors = np.empty((users.size, self.settings.n_factors), np.float32)
        item_factors = np.empty((items.size, self.settings.n_factors), np.float32)
        self._copy_rows(parameters[0], users, math.sqrt(self.scale), user_factors)
        self._copy_rows(parameters[1], items, math.sqrt(self.scale), item_factors)
        return finalize(
            self.ratings,
            loss=self.loss,
            mean=self.mean,
            item_bias=parameters[3][items] * np.float32(self.scale),
            item_factors=item_factors,
            user_bias=parameters[2][users] * np.float32(self.scale),
            user_factors=user_factors,
            train_rmse=report.train_rmse,
            holdout=self.holdout,
            seed=self.settings.seed,
            statistics=self.statistics,
            pool=self.pool,
            earlier_noise=self.earlier_noise,
        )

    def _copy_rows(self, source: Matrix32, rows: Rows, factor: float, target: Matrix32) -> None:
        in_parts(self.pool, copy_rows, rows.size, source, rows, factor, target, least=ROWS_OF_A_PART)


def _is_better(report: EpochReport, best: EpochReport | None) -> bool:
    """Whether the hold-out error is lower; without a hold-out, every later epoch is better."""
    if best is None or report.holdout_rmse is None or best.holdout_rmse is None:
        return True
    if report.holdout_error is not None and best.holdout_error is not None:
        return report.holdout_error < best.holdout_error
    return report.holdout_rmse < best.holdout_rmse
