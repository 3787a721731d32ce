"""A user's vector from the user's current ratings: nothing is stored per user, and every rating counts at once."""

from __future__ import annotations

from bisect import bisect_right
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Matrix64, Rows, Vector32, refuse_rows_outside, rows, vector32
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.fold_in.declared_loss import evidence_of, solve_declared
from app.engine.fold_in.intervals import (
    BUCKETS,
    INTERVAL_LEVEL,
    calibrated_interval,
    calibrated_reach,
    gaussian_interval,
    gaussian_reach,
)
from app.engine.fold_in.kernel_model import KernelModel
from app.engine.fold_in.kernels import add_held_out_errors, fold_in_user, predict_items, predict_with_intervals
from app.engine.fold_in.user import UserVector
from app.engine.parallel import in_parts, n_parts_of

_BUCKETS = np.array(BUCKETS, np.int64)

_USERS_OF_A_PART = 16
"""Fewer users folded in together are not worth handing to a thread."""


class FoldIn:
    """Folds users in against one model: an exact ridge solve, in this thread.

        A_u = C^-1 + (1/s2) sum_i y_i y_i'        y_i = [1, q_i], over the items i that u rated
        x_u = A_u^-1 (C^-1 m + (1/s2) sum_i y_i (r_ui - mean - b_i))

    The posterior of Bayesian linear regression with prior Normal(m, C) and noise variance s2 (Bishop 2006, eq.
    3.50-3.51). An item outside the model (row -1) or without ratings has the effect of an average item, and the
    variance of items as more noise.

    In an average over samples the prior mean comes from which items the user rated, the uncertainty of an item widens
    the noise of its ratings, and the user's own noise is estimated from the residuals (`app.engine.fold_in.kernels`).
    Another loss than the squared one is minimized by Newton's method (`app.engine.fold_in.declared_loss`).
    """

    def __init__(self, model: FactorModel) -> None:
        self.model = model
        self.kernel_model = KernelModel(model)
        self._record = self.kernel_model.record
        self._reach = self._reach_at(INTERVAL_LEVEL)
        self._prior_user = self._solve(np.zeros(0, np.int32), np.zeros(0, np.float32))

    def fold_in(self, item_rows: npt.ArrayLike, values: npt.ArrayLike) -> UserVector:
        """The user of these ratings; the prior mean without ratings. O(n k^2 + k^3).

        Raises InvalidArray for unequal lengths, rows outside the model other than -1, and values that are not finite.
        """
        items, ratings = rows(item_rows, "item_rows"), vector32(values, "values")
        if items.size != ratings.size:
            raise InvalidArray("ratings", f"need equal lengths, not {items.size} rows and {ratings.size} values")
        refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        return self.solve(items, ratings)

    def solve(self, item_rows: Rows, values: Vector32) -> UserVector:
        """As `fold_in`, of arrays that are known to be valid: checking them takes half of the time."""
        return self._solve(item_rows, values) if item_rows.size else self._prior_user

    def predict(self, user: UserVector, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
        """r_hat of each item, not clipped to any scale, and the variance of a rating around it: s2 + y' A_u^-1 y.

        Behind a link the variance y' A_u^-1 y of the score is multiplied by the square of the link's slope there.
        """
        scores, variances = self.scores(user, item_rows)
        loss, noise = self.model.loss, self.kernel_model.noise_variance
        if loss.link == "identity":
            return scores, variances
        of_scores = (variances - noise) * loss.rating_slope_of(scores) ** 2
        return loss.rating_of(scores).astype(np.float32), (noise + of_scores).astype(np.float32)

    def scores(self, user: UserVector, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
        """mean + b_u + b_i + p.q of each item, and s2 + y' A_u^-1 y."""
        items = rows(item_rows, "item_rows")
        refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        values, variances = np.empty(items.size, np.float32), np.empty(items.size, np.float32)
        predict_items(self._record, user.factors, user.bias, user.upper, user.noise_scale, items, values, variances)
        return values, variances

    def with_intervals(self, user: UserVector, item_rows: npt.ArrayLike, level: float = INTERVAL_LEVEL) -> Matrix64:
        """Prediction, lower and upper end [3, n] of each item, as from `predict` and `interval`.

        For the ten items of a list this takes a sixth of their time.
        """
        items = rows(item_rows, "item_rows")
        if self.model.loss.link != "identity":
            values, variances = self.predict(user, items)
            return np.array([values, *self.interval(user, items, values, variances, level)], np.float64)
        predictions = np.empty((3, items.size))
        reach_at = self._reach if level == INTERVAL_LEVEL else self._reach_at(level)
        reach = reach_at[bisect_right(BUCKETS, user.n_ratings)]
        side = (user.factors, user.bias, user.upper, user.noise_scale)
        if not predict_with_intervals(self._record, *side, items, reach, _BUCKETS, predictions):
            refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        return predictions

    def interval(
        self,
        user: UserVector,
        item_rows: npt.ArrayLike,
        values: Vector32,
        variances: Vector32,
        level: float = INTERVAL_LEVEL,
    ) -> tuple[Vector32, Vector32]:
        """Lower and upper ends of the interval of each prediction: calibrated in an average over samples."""
        if self.model.posterior is None:
            return gaussian_interval(values, variances, level)
        items = rows(item_rows, "item_rows")
        counts = np.where(items >= 0, self.model.item_counts[items], 0)
        return calibrated_interval(self.model.posterior, user.n_ratings, counts, values, variances, level)

    def held_out_errors(
        self, users: npt.NDArray[np.int64], ratings: Ratings, holdout: Ratings, pool: Executor
    ) -> tuple[float, float, int]:
        """Sums of (r - r_hat)^2 and of y' A_u^-1 y over these users' held-out ratings of known items, and their number.

        Each user is folded in from `ratings`; squared loss only. The same for every number of threads.
        """
        sums = np.zeros((n_parts_of(users.size, _USERS_OF_A_PART), 3))
        ends = np.array([users, users + 1], np.int32)
        in_parts(
            *(pool, add_held_out_errors, users.size, self._record),
            *(np.searchsorted(ratings.user_rows, ends), np.searchsorted(holdout.user_rows, ends)),
            *(ratings.item_rows, ratings.values, holdout.item_rows, holdout.values, sums),
            least=_USERS_OF_A_PART,
        )
        squared_error, variance, n = sums.sum(axis=0).tolist()
        return squared_error, variance, int(n)

    def _solve(self, item_rows: Rows, values: Vector32) -> UserVector:
        size, noise_scale = self.model.n_factors + 1, 1.0
        if self.model.loss.is_squared:
            upper, x = np.zeros((size, size)), np.empty(size)
            noise_scale = fold_in_user(self._record, item_rows, values, upper, x)
        else:
            evidence = evidence_of(self.model, self.kernel_model, item_rows, values)
            x, precision = solve_declared(self.model, self.kernel_model, evidence)
            upper = np.ascontiguousarray(np.linalg.cholesky(precision).T)
        return UserVector(float(x[0]), x[1:].astype(np.float32), upper, int(item_rows.size), noise_scale)

    def _reach_at(self, level: float) -> Matrix64:
        """Standard deviations by bucket of the user (rows) and of the item (columns)."""
        first, posterior = (0, *BUCKETS), self.model.posterior
        if posterior is None:
            return np.full((len(first), len(first)), gaussian_reach(level))
        return np.array([calibrated_reach(posterior, n_ratings, np.array(first), level) for n_ratings in first])
