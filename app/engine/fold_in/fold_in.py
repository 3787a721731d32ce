"""A user's vector from the ratings of this moment: no table of users, and every rating counts at once."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import (
    InvalidArray,
    Matrix32,
    Matrix64,
    Rows,
    Vector32,
    Vector64,
    refuse_rows_outside,
    rows,
    vector32,
)
from app.engine.data.features import DAMPING
from app.engine.data.ratings import Ratings
from app.engine.factors import FactorModel
from app.engine.fold_in.cholesky import invert_positive
from app.engine.fold_in.declared_loss import Evidence, solve_declared, working_pulls
from app.engine.fold_in.fused_kernels import N_ITEMS, N_PLACES, K, fold_in_averaged, predict_with_intervals
from app.engine.fold_in.intervals import (
    BUCKETS,
    INTERVAL_LEVEL,
    bucket_of,
    calibrated_reach,
    gaussian_interval,
    gaussian_reach,
    reach_by_buckets,
)
from app.engine.fold_in.kernels import add_held_out_errors, predict_items, share_out, solve_user
from app.engine.fold_in.user import UserVector
from app.engine.parallel import in_parts, n_parts_of

NOISE_RATINGS = 30.0
"""Ratings that the usual noise weighs against a user's own (see `app.engine.bayes.gibbs`)."""

_HINT_RATINGS = 150.0
"""Ratings with which a user's prior precision is halfway from the crowd's to that around the hints."""
_RIDGE = 1e-9
"""Added to the prior's variances, relative to their sum, so that a direction nobody varies in can be inverted."""

_BUCKETS = np.array(BUCKETS, np.int64)

_USERS_OF_A_PART = 16
"""Fewer users folded in together are not worth handing over."""


class FoldIn:
    """Folds users in against one model: DESIGN's ridge solve, exact, in this thread.

        A_u = C^-1 + (1/s2) sum_i y_i y_i'        y_i = [1, q_i], over the items i that u rated
        x_u = A_u^-1 (C^-1 m + (1/s2) sum_i y_i (r_ui - mean - b_i))

    The posterior of Bayesian linear regression with prior Normal(m, C) and noise variance s2 (Bishop 2006, eq.
    3.50-3.51). An item outside the model (row -1) or without ratings has the average item's effect and as much doubt as
    items differ.

    Where the model is the mean of a posterior, the prior mean comes from what the user rated, doubt about an item
    widens the noise of its rating, and the user's own noise is found from what the vector leaves: `_solve_averaged`.
    """

    def __init__(self, model: FactorModel) -> None:
        self.model = model
        self._prior_precision = _inverted(model.user_prior.covariance)
        self._prior_pull = self._prior_precision @ model.user_prior.mean
        self._noise_variance = max(model.noise_variance, 1e-12)
        self._is_known = model.item_counts > 0
        self._item_noise = np.ones(model.n_items, np.float32)
        if model.posterior is not None:
            self._is_known = np.ones(model.n_items, np.bool_)  # its prior mean is known of an item that nobody rated
            self._item_noise = model.posterior.item_noise
            self._hinted_precision = _inverted(model.posterior.hinted_covariance)
            self._hints = (
                self._hinted_precision,
                np.array(model.posterior.hint_base, np.float64),
                np.array(model.posterior.count_hint, np.float64),
            )
        self._unknown_bias, self._unknown_variance = _average_item(model, self._is_known)
        self._tell_kernels()
        self._temperature = max(model.temperature, 1e-12)
        self._nobody = self._solve(np.zeros(0, np.int32), np.zeros(0, np.float32))

    def fold_in(self, item_rows: npt.ArrayLike, values: npt.ArrayLike) -> UserVector:
        """The user of these ratings; nobody's ratings give the prior mean. O(n k^2 + k^3).

        Raises InvalidArray for unequal lengths, rows outside the model other than -1, and values that are not finite.
        """
        items, ratings = rows(item_rows, "item_rows"), vector32(values, "values")
        if items.size != ratings.size:
            raise InvalidArray("ratings", f"need equal lengths, not {items.size} rows and {ratings.size} values")
        refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        return self.solve(items, ratings)

    def solve(self, item_rows: Rows, values: Vector32) -> UserVector:
        """As `fold_in`, of arrays that are known to be what they should be: looking at them takes half of the time."""
        return self._solve(item_rows, values) if item_rows.size else self._nobody

    def predict(self, user: UserVector, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
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

    def scores(self, user: UserVector, item_rows: npt.ArrayLike) -> tuple[Vector32, Vector32]:
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
            self._item_noise,
            self._is_known,
            self.model.mean,
            self._noise_variance * user.noise_scale,
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
            *(
                holdout.item_rows,
                holdout.values,
                self.model.item_factors,
                self.model.item_bias,
                self._item_noise,
                self._is_known,
            ),
            *(self.model.mean, self._noise_variance, self._unknown_bias, self._unknown_variance),
            *(self._prior_precision, self._prior_pull, sums),
            least=_USERS_OF_A_PART,
        )
        squared_error, doubt, n = sums.sum(axis=0).tolist()
        return squared_error, doubt, int(n)

    def trained(self, user_row: int, folded: UserVector) -> UserVector:
        """The user with the vector that training gave them, who was folded in from the ratings of that training.

        How well it is known, and the user's noise, are those of folding in.
        """
        bias, factors = float(self.model.user_bias[user_row]), self.model.user_factors[user_row]
        return UserVector(bias, factors, folded.upper, folded.n_ratings, folded.noise_scale)

    def with_intervals(self, user: UserVector, item_rows: npt.ArrayLike, level: float = INTERVAL_LEVEL) -> Matrix64:
        """Prediction, lower and upper end [3, n] of each item, as `predict` and `interval` give them.

        A sixth of their time for the ten items of a list.
        """
        items = rows(item_rows, "item_rows")
        if self.model.loss.link != "identity":
            values, variances = self.predict(user, items)
            return np.array([values, *self.interval(user, items, values, variances, level)], np.float64)
        told = np.empty((3, items.size))
        reach = (self._reach if level == INTERVAL_LEVEL else self._reach_at(level))[bucket_of(user.n_ratings)]
        side = (user.factors, user.bias, user.upper, user.noise_scale)
        if not predict_with_intervals(self._places, self._numbers, *side, items, reach, _BUCKETS, told):
            refuse_rows_outside(items, self.model.n_items, "item_rows", unknown_allowed=True)
        return told

    def interval(
        self,
        user: UserVector,
        item_rows: npt.ArrayLike,
        values: Vector32,
        variances: Vector32,
        level: float = INTERVAL_LEVEL,
    ) -> tuple[Vector32, Vector32]:
        """Lower and upper ends of the interval of each prediction, calibrated where the model knows how."""
        if self.model.posterior is None:
            return gaussian_interval(values, variances, level)
        items = rows(item_rows, "item_rows")
        counts = np.where(items >= 0, self.model.item_counts[items], 0)
        reach = calibrated_reach(self.model.posterior, user.n_ratings, counts, level) * np.sqrt(variances)
        return np.asarray(values - reach, np.float32), np.asarray(values + reach, np.float32)

    def shares(
        self, user: UserVector, item_rows: npt.ArrayLike, rated_rows: npt.ArrayLike, values: npt.ArrayLike
    ) -> tuple[Vector64, Matrix64]:
        """What the prior and each of m ratings add to the scores of n items, for the user folded in from them.

        [n] and [n, m]: y_j'A_u^-1 times what each adds to A_u x_u. A rating adds w_i d_i y_i, w_i by the noise of its
        item, and what its hint moves the prior mean. Of a declared loss it adds w_i (h_i y_i'x - s_i) y_i / T, with
        slope s_i and curvature h_i at the solution (the working response of McCullagh & Nelder 1989, section 2.5).
        """
        items, rated, ratings = rows(item_rows, "item_rows"), rows(rated_rows, "rated_rows"), vector32(values, "values")
        for name, given in (("item_rows", items), ("rated_rows", rated)):
            refuse_rows_outside(given, self.model.n_items, name, unknown_allowed=True)
        if rated.size != ratings.size:
            raise InvalidArray("values", f"need equal lengths, not {rated.size} rows and {ratings.size} values")
        if not self.model.loss.is_squared:
            return self._declared_shares(user, items, rated, ratings)
        prior, shares = np.empty(items.size), np.empty((items.size, rated.size))
        pull, hints, hint_precision = self._unhinted(rated)
        share_out(
            items,
            rated,
            ratings,
            user.upper,
            pull,
            self.model.item_factors,
            self.model.item_bias,
            self._item_noise,
            self._is_known,
            self.model.mean,
            self._noise_variance,
            self._unknown_bias,
            self._unknown_variance,
            hints,
            hint_precision,
            prior,
            shares,
        )
        return prior, shares

    def _unhinted(self, rated: Rows) -> tuple[Vector64, Matrix32, Matrix64]:
        """The prior's pull but for the hints of what was rated; the hints [m, k + 1], and what makes them pull."""
        posterior, size = self.model.posterior, self.model.n_factors + 1
        if posterior is None or not (n := int((rated >= 0).sum())):
            return self._prior_pull, np.zeros((rated.size, size), np.float32), np.zeros((size, size))
        crowd, share = self.model.user_prior.mean, n / (n + DAMPING)
        weight = n / (n + _HINT_RATINGS)
        precision = weight * self._hinted_precision + (1.0 - weight) * self._prior_precision
        unhinted = posterior.hint_base + np.log(n + DAMPING) * posterior.count_hint
        pull = precision @ (crowd + share * (unhinted - crowd))
        return pull, posterior.item_hints[rated], share / np.sqrt(n + DAMPING) * precision

    def _declared_shares(
        self, user: UserVector, items: Rows, rated: Rows, ratings: Vector32
    ) -> tuple[Vector64, Matrix64]:
        evidence = self._evidence(rated, ratings)
        pulls = working_pulls(self.model.loss, evidence, self._temperature, user.bias, user.factors)
        wanted = self._evidence(items, np.zeros(items.size, np.float32))
        reach = wanted.y @ user.covariance()
        return wanted.base + reach @ self._prior_pull, reach @ (pulls[:, None] * evidence.y).T

    def _solve(self, item_rows: Rows, values: Vector32) -> UserVector:
        if not self.model.loss.is_squared:
            return self._solve_declared(item_rows, values)
        if self.model.posterior is None or not (item_rows >= 0).any():
            return self._solve_once(item_rows, values, self._prior_precision, self._prior_pull)
        return self._solve_averaged(item_rows, values)

    def _solve_averaged(self, item_rows: Rows, values: Vector32) -> UserVector:
        """With the prior of a user who rated these n items, and the user's own noise.

        Prior: n / (n + d) of the way from the crowd's mean to the hinted one (see `Posterior`), and n / (n + 150) of
        the way from the crowd's precision to that around the hints: they were learned from users with many ratings, and
        trusting them too much costs most where there are few.

        Noise by the usual one, s2: (v + sum_i E (r_i - y_i'x)^2 / (s2 h_i)) / (v + n), of known items: one step of
        variational Bayes (Bishop 2006, section 10.3) for a Gamma prior on the precision that weighs v ratings; the
        expectation is over what is known of x. It widens or narrows intervals and does not weigh the ratings of x: the
        items' vectors have learned them, so errors on them look smaller than they are, and x so weighted predicts
        worse. The doubts y_i' A^-1 y_i / (s2 h_i) add up to tr A^-1 (A - M) = k + 1 - tr A^-1 M, where M is what A
        holds besides them: the prior's precision, and what unknown items say of b_u.
        """
        size = self._prior_pull.size
        upper, solution = np.zeros((size, size)), np.empty(size)
        crowd = self._prior_precision, self._prior_mean
        noise_scale = fold_in_averaged(
            self._places, self._numbers, item_rows, values, *crowd, *self._hints, upper, solution
        )
        return UserVector(float(solution[0]), solution[1:].astype(np.float32), upper, item_rows.size, noise_scale)

    def _tell_kernels(self) -> None:
        """Where arrays lie, in the order of `fused_kernels`; they are held for as long as this lives."""
        model, posterior = self.model, self.model.posterior
        self._prior_mean = np.array(model.user_prior.mean, np.float64)
        arrays: list[npt.NDArray[Any]] = [model.item_factors, model.item_bias, self._item_noise]
        arrays += [self._is_known, model.item_counts]
        if posterior is not None:
            arrays.append(posterior.item_hints)
        self._held = [np.ascontiguousarray(array) for array in arrays]
        self._places = np.zeros(N_PLACES, np.int64)
        self._places[: len(self._held)] = [array.ctypes.data for array in self._held]
        self._places[N_ITEMS], self._places[K] = model.item_factors.shape
        self._numbers = np.array(
            [
                *(model.mean, self._noise_variance, self._unknown_bias, self._unknown_variance),
                *(NOISE_RATINGS, DAMPING, _HINT_RATINGS),
            ]
        )
        self._reach = self._reach_at(INTERVAL_LEVEL)

    def _reach_at(self, level: float) -> Matrix64:
        """Standard deviations by bucket of the user (rows) and of the item (columns)."""
        if self.model.posterior is None:
            return np.full((len(BUCKETS) + 1, len(BUCKETS) + 1), gaussian_reach(level))
        return reach_by_buckets(self.model.posterior, level)

    def _solve_once(self, item_rows: Rows, values: Vector32, precision: Matrix64, pull: Vector64) -> UserVector:
        size = pull.size
        upper, solution = np.empty((size, size)), np.empty(size)
        solve_user(
            item_rows,
            values,
            self.model.item_factors,
            self.model.item_bias,
            self._item_noise,
            self._is_known,
            self.model.mean,
            1.0 / self._noise_variance,
            self._unknown_bias,
            1.0 / (self._noise_variance + self._unknown_variance),
            precision,
            pull,
            upper,
            solution,
        )
        return UserVector(float(solution[0]), solution[1:].astype(np.float32), upper, int(item_rows.size))

    def _solve_declared(self, item_rows: Rows, values: Vector32) -> UserVector:
        evidence = self._evidence(item_rows, values)
        prior_mean = np.asarray(self.model.user_prior.mean, np.float64)
        solution, precision = solve_declared(
            self.model.loss, evidence, self._temperature, prior_mean, self._prior_precision
        )
        upper = np.ascontiguousarray(np.linalg.cholesky(precision).T)
        return UserVector(float(solution[0]), solution[1:].astype(np.float32), upper, int(item_rows.size))

    def _evidence(self, item_rows: Rows, values: Vector32) -> Evidence:
        model = self.model
        is_known = (item_rows >= 0) & self._is_known[item_rows]
        known = np.where(is_known, item_rows, 0)
        base = model.mean + np.where(is_known, model.item_bias[known], self._unknown_bias)
        doubt = self._unknown_variance * model.loss.rating_slope_of(base) ** 2
        weight = np.where(is_known, 1.0, self._noise_variance / (self._noise_variance + doubt))
        y = np.ones((item_rows.size, model.n_factors + 1))
        y[:, 1:] = np.where(is_known[:, None], model.item_factors[known], 0.0)
        return Evidence(values.astype(np.float64), base, y, weight)


def _inverted(covariance: Matrix64) -> Matrix64:
    ridged = np.array(covariance, order="C")
    ridged[np.diag_indices_from(ridged)] += _RIDGE * max(float(np.trace(ridged)), 1e-12)
    inverse = np.empty_like(ridged)
    invert_positive(ridged, inverse)
    return inverse


def _average_item(model: FactorModel, is_known: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Mean and variance of the biases of rated items, each item once: what an unseen item is expected to be."""
    if not is_known.any():
        return 0.0, 0.0
    biases = model.item_bias[is_known].astype(np.float64)
    return float(biases.mean()), float(biases.var())
