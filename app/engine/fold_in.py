"""A user's vector from the ratings of this moment: no table of users, and every rating counts at once."""

from __future__ import annotations

import statistics
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Matrix64, Rows, Vector32, refuse_rows_outside, rows, vector32
from app.engine.dataset import Ratings
from app.engine.declared_fold_in import Evidence, solve_declared
from app.engine.factors import FactorModel
from app.engine.parts import in_parts, n_parts_of
from app.engine.posteriors import add_held_out_errors, predict_items, solve_user
from app.engine.small_algebra import invert_positive

INTERVAL_LEVEL = 0.8
"""Share of ratings inside the intervals that are served, and so inside the ones that are measured."""

_RIDGE = 1e-9
"""Added to the prior's variances, relative to their sum, so that a direction nobody varies in can be inverted."""

_USERS_OF_A_PART = 16
"""Fewer users folded in together are not worth handing over."""


@dataclass(frozen=True, slots=True)
class UserSide:
    """What is known of one user: x_u = [bias, factors], and how well: the Cholesky factor U of A_u, U'U = A_u.

    A_u^-1 is the covariance of x_u; only the upper triangle of `upper` [k + 1, k + 1] means anything.
    """

    bias: float
    factors: Vector32
    upper: Matrix64
    n_ratings: int

    def covariance(self) -> Matrix64:
        """A_u^-1 [k + 1, k + 1], bias first."""
        inverse = np.linalg.inv(np.triu(self.upper))
        covariance: Matrix64 = inverse @ inverse.T
        return covariance


class FoldIn:
    """Folds users in against one model: DESIGN's ridge solve, exact, in this thread.

        A_u = C^-1 + (1/s2) sum_i y_i y_i'        y_i = [1, q_i], over the items i that u rated
        x_u = A_u^-1 (C^-1 m + (1/s2) sum_i y_i (r_ui - mean - b_i))

    The posterior of Bayesian linear regression with prior Normal(m, C) and noise variance s2 (Bishop 2006, eq.
    3.50-3.51). An item outside the model (row -1) or without ratings has the average item's effect and as much doubt as
    items differ.
    """

    def __init__(self, model: FactorModel) -> None:
        self.model = model
        covariance = np.array(model.user_prior.covariance, order="C")
        covariance[np.diag_indices_from(covariance)] += _RIDGE * max(float(np.trace(covariance)), 1e-12)
        self._prior_precision = np.empty_like(covariance)
        invert_positive(covariance, self._prior_precision)
        self._prior_pull = self._prior_precision @ model.user_prior.mean
        self._noise_variance = max(model.noise_variance, 1e-12)
        self._is_known = model.item_counts > 0
        self._unknown_bias, self._unknown_variance = _average_item(model, self._is_known)
        self._nobody = self._solve(np.zeros(0, np.int32), np.zeros(0, np.float32))

    def fold_in(self, item_rows: npt.ArrayLike, values: npt.ArrayLike) -> UserSide:
        """The user of these ratings; nobody's ratings give the prior mean. O(n k^2 + k^3).

        Raises InvalidArray for unequal lengths, rows outside the model other than -1, and values that are not finite.
        """
        items, ratings = rows(item_rows, "item_rows"), vector32(values, "values")
        if items.size != ratings.size:
            raise InvalidArray("ratings", f"need equal lengths, not {items.size} rows and {ratings.size} values")
        refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        return self._solve(items, ratings) if items.size else self._nobody

    def predict(self, user: UserSide, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
        """r_hat of each item, not clipped to any scale, and the variance of a rating around it: s2 + y' A_u^-1 y.

        Behind a link the doubt y' A_u^-1 y about the score counts by the link's slope there, squared.
        """
        scores, variances = self.scores(user, item_rows)
        loss = self.model.loss
        if loss.link == "identity":
            return scores, variances
        slopes = loss.rating_slope_of(scores)
        doubts = (variances - self._noise_variance) * slopes**2
        return loss.rating_of(scores).astype(np.float32), (self._noise_variance + doubts).astype(np.float32)

    def scores(self, user: UserSide, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
        """mean + b_u + b_i + p.q of each item, and s2 + y' A_u^-1 y."""
        items = rows(item_rows, "item_rows")
        refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        values, variances = np.empty(items.size, np.float32), np.empty(items.size, np.float32)
        predict_items(
            user.factors,
            user.bias,
            user.upper,
            items,
            self.model.item_factors,
            self.model.item_bias,
            self._is_known,
            self.model.mean,
            self._noise_variance,
            self._unknown_bias,
            self._unknown_variance,
            values,
            variances,
        )
        return values, variances

    def held_out_errors(
        self, users: npt.NDArray[np.int64], ratings: Ratings, holdout: Ratings, pool: Executor
    ) -> tuple[float, float, int]:
        """Sums of (r - r_hat)^2 and of y' A_u^-1 y over these users' held-out ratings of known items, and their number.

        Each is folded in from the ratings. The same for every number of threads.
        """
        sums = np.zeros((n_parts_of(users.size, _USERS_OF_A_PART), 3))
        ends = np.array([users, users + 1], np.int32)
        in_parts(
            pool,
            add_held_out_errors,
            users.size,
            *(np.searchsorted(ratings.user_rows, ends), np.searchsorted(holdout.user_rows, ends)),
            *(ratings.item_rows, ratings.values),
            *(holdout.item_rows, holdout.values, self.model.item_factors, self.model.item_bias, self._is_known),
            *(self.model.mean, self._noise_variance, self._unknown_bias, self._unknown_variance),
            *(self._prior_precision, self._prior_pull, sums),
            least=_USERS_OF_A_PART,
        )
        squared_error, doubt, n = sums.sum(axis=0).tolist()
        return squared_error, doubt, int(n)

    def _solve(self, item_rows: Rows, values: Vector32) -> UserSide:
        if not self.model.loss.is_squared:
            return self._solve_declared(item_rows, values)
        size = self._prior_pull.size
        upper, solution = np.empty((size, size)), np.empty(size)
        solve_user(
            item_rows,
            values,
            self.model.item_factors,
            self.model.item_bias,
            self._is_known,
            self.model.mean,
            1.0 / self._noise_variance,
            self._unknown_bias,
            1.0 / (self._noise_variance + self._unknown_variance),
            self._prior_precision,
            self._prior_pull,
            upper,
            solution,
        )
        return UserSide(float(solution[0]), solution[1:].astype(np.float32), upper, int(item_rows.size))

    def _solve_declared(self, item_rows: Rows, values: Vector32) -> UserSide:
        model = self.model
        is_known = (item_rows >= 0) & self._is_known[item_rows]
        known = np.where(is_known, item_rows, 0)
        y = np.ones((item_rows.size, model.n_factors + 1))
        y[:, 1:] = np.where(is_known[:, None], model.item_factors[known], 0.0)
        base = model.mean + np.where(is_known, model.item_bias[known], self._unknown_bias)
        doubt = self._unknown_variance * model.loss.rating_slope_of(base) ** 2
        weight = np.where(is_known, 1.0, self._noise_variance / (self._noise_variance + doubt))
        evidence = Evidence(values.astype(np.float64), base, y, weight)
        prior_mean = np.asarray(model.user_prior.mean, np.float64)
        temperature = max(model.temperature, 1e-12)
        solution, precision = solve_declared(model.loss, evidence, temperature, prior_mean, self._prior_precision)
        upper = np.ascontiguousarray(np.linalg.cholesky(precision).T)
        return UserSide(float(solution[0]), solution[1:].astype(np.float32), upper, int(item_rows.size))


def interval(values: Vector32, variances: Vector32, level: float = INTERVAL_LEVEL) -> tuple[Vector32, Vector32]:
    """Lower and upper ends of the central interval that holds a rating with this probability, were errors Gaussian."""
    reach = statistics.NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variances)
    return np.asarray(values - reach, np.float32), np.asarray(values + reach, np.float32)


def _average_item(model: FactorModel, is_known: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Mean and variance of the biases of rated items, each item once: what an unseen item is expected to be."""
    if not is_known.any():
        return 0.0, 0.0
    biases = model.item_bias[is_known].astype(np.float64)
    return float(biases.mean()), float(biases.var())
