"""A user's vector under a declared loss: no closed form, so Newton's method with the derivatives of the expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix64, Rows, Vector32, Vector64
from app.engine.factors import FactorModel
from app.engine.fold_in.kernel_model import KernelModel
from app.engine.fold_in.kernels import item_vectors
from app.engine.fold_in.user import UserVector
from app.engine.losses.derivatives import derivatives_of

_MAX_STEPS = 60
_MAX_HALVINGS = 25
_ARMIJO = 1e-4
"""Share of the descent predicted by the slope that a step must achieve (Nocedal & Wright 2006, eq. 3.4)."""
_MIN_DISTANCE = 1e-6
"""Distance of a score from the one that fits the rating, below which a secant is only rounding error."""
_TOLERANCE = 1e-9
"""Predicted descent, relative to the objective, at which the method has converged."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One user's ratings r, and what their scores are made of: score = base + y x, with y = [1, q_i].

    r, base, weight [n]   y [n, k + 1]
    """

    r: Vector64
    base: Vector64
    y: Matrix64
    weight: Vector64


def evidence_of(model: FactorModel, kernel_model: KernelModel, item_rows: Rows, values: Vector32) -> Evidence:
    """Of these ratings; one of an unknown item weighs less by the variance of items, taken through the link."""
    y, is_known = np.empty((item_rows.size, model.n_factors + 1)), np.empty(item_rows.size, np.bool_)
    item_vectors(kernel_model.record, item_rows, y, is_known)
    base = model.mean + np.where(is_known, model.item_bias[item_rows], kernel_model.unknown_bias)
    variance = kernel_model.unknown_variance * model.loss.rating_slope_of(base) ** 2
    noise = kernel_model.noise_variance
    return Evidence(values.astype(np.float64), base, y, np.where(is_known, 1.0, noise / (noise + variance)))


def solve_declared(model: FactorModel, kernel_model: KernelModel, evidence: Evidence) -> tuple[Vector64, Matrix64]:
    """(x, A): the most probable x_u, and the precision of the Gaussian around it that the curvatures there give.

        x = argmin sum_i w_i error(r_i, link(base_i + y_i x)) / T + (x - m)' C^-1 (x - m) / 2
        A = C^-1 + sum_i w_i h_i y_i y_i' / T

    Newton's method with backtracking. A cautious step replaces the curvature h by the secant, slope / distance from the
    rating, where that is larger: far from a rating a robust error hardly curves, and the secant's parabola lies above
    it (Huber 1981, section 7.8). The first step is cautious, and so are some after each step that had to be halved.
    The Gaussian is the Laplace approximation of MacKay 1992. For (r - r_hat)^2 / 2 and T = s2 one step gives the ridge
    solution.
    """
    search = _Search(model, kernel_model, evidence)
    x = kernel_model.prior_mean.copy()
    value = search.objective(x)
    n_cautious, n_halved = 1, 0
    for _ in range(_MAX_STEPS):
        is_cautious = n_cautious > 0
        step, predicted = search.step(x, is_cautious)
        if not predicted < -_TOLERANCE * max(abs(value), 1.0):
            if is_cautious or not np.isfinite(predicted):
                break
            n_cautious = 1
            continue
        length = search.length(x, value, step, predicted)
        if length == 0.0 and is_cautious:
            break
        n_halved += not is_cautious and length < 1.0
        n_cautious = n_cautious - 1 if is_cautious else 2**n_halved if length < 1.0 else 0
        x = x + length * step
        value = search.objective(x)
    return x, search.hessian(x)


def working_responses(model: FactorModel, evidence: Evidence, user: UserVector) -> Vector64:
    """w_i (h_i y_i x - s_i) / T of each rating at the user's x: times y_i, they and C^-1 m add up to A x.

    The working response of iteratively reweighted least squares (McCullagh & Nelder 1989, section 2.5), with slope s_i
    and curvature h_i of the error, times its weight.
    """
    added = evidence.y @ np.append(np.float64(user.bias), user.factors)
    _, slopes, curvatures = derivatives_of(model.loss)(evidence.r, evidence.base + added)
    responses: Vector64 = evidence.weight / temperature_of(model) * (curvatures * added - slopes)
    return responses


def temperature_of(model: FactorModel) -> float:
    """T of the model, large enough to divide by."""
    return max(model.temperature, 1e-12)


class _Search:
    """The objective of one user, and the steps that descend it."""

    def __init__(self, model: FactorModel, kernel_model: KernelModel, evidence: Evidence) -> None:
        self.derivatives = derivatives_of(model.loss)
        self.evidence = evidence
        self.weight = evidence.weight / temperature_of(model)
        self.prior_mean = kernel_model.prior_mean
        self.prior_precision = kernel_model.prior_precision
        self.fitting_scores = model.loss.scores_of(evidence.r)

    def objective(self, x: Vector64) -> float:
        errors, _, _ = self._at(x)
        off = x - self.prior_mean
        total = float(self.weight @ errors + off @ self.prior_precision @ off / 2)
        return total if np.isfinite(total) else np.inf

    def step(self, x: Vector64, is_cautious: bool) -> tuple[Vector64, float]:
        """A step, and the change of the objective that its slope predicts."""
        _, slopes, curvatures = self._at(x)
        if is_cautious:
            curvatures = np.maximum(curvatures, self._secants(x, slopes))
        gradient = self.prior_precision @ (x - self.prior_mean) + self.evidence.y.T @ (self.weight * slopes)
        if not np.isfinite(gradient).all():
            return np.zeros_like(x), np.nan
        step = -np.linalg.solve(self._metric(curvatures), gradient).astype(np.float64, copy=False)
        return step, float(gradient @ step)

    def length(self, x: Vector64, value: float, step: Vector64, predicted: float) -> float:
        """The first of 1, 1/2, 1/4, ... that achieves its share of the predicted descent; 0 if none does."""
        length = 1.0
        for _ in range(_MAX_HALVINGS):
            if self.objective(x + length * step) <= value + _ARMIJO * length * predicted:
                return length
            length /= 2
        return 0.0

    def hessian(self, x: Vector64) -> Matrix64:
        return self._metric(self._at(x)[2])

    def _at(self, x: Vector64) -> tuple[Vector64, Vector64, Vector64]:
        return self.derivatives(self.evidence.r, self.evidence.base + self.evidence.y @ x)

    def _metric(self, curvatures: Vector64) -> Matrix64:
        y = self.evidence.y
        metric: Matrix64 = self.prior_precision + (y * (self.weight * curvatures)[:, None]).T @ y
        return metric

    def _secants(self, x: Vector64, slopes: Vector64) -> Vector64:
        distances = self.evidence.base + self.evidence.y @ x - self.fitting_scores
        with np.errstate(all="ignore"):
            secants = slopes / distances
        usable = np.isfinite(secants) & (np.abs(distances) > _MIN_DISTANCE)
        return np.where(usable, np.maximum(secants, 0.0), 0.0)
