"""A user's vector under a declared loss: no closed form, so Newton's method with the derived derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix64, Vector32, Vector64
from app.engine.losses.base import Loss
from app.engine.losses.derivatives import derivatives_of

_MOST_STEPS = 60
_MOST_HALVINGS = 25
_ENOUGH = 1e-4
"""Share of the promised descent that a step must bring (Armijo; Nocedal & Wright 2006, eq. 3.4)."""
_NEAR = 1e-6
"""Distance of a score from the rating's own below which a secant is all rounding."""
_SETTLED = 1e-9
"""Promised descent, relative to the objective, below which nothing changes any more: the step before was quadratic."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one user: ratings, their scores without the user, and what the user adds to each.

    r, base, weight [n]   y [n, k + 1] = [1, q_i]; score = base + y x
    """

    r: Vector64
    base: Vector64
    y: Matrix64
    weight: Vector64


def solve_declared(
    loss: Loss, evidence: Evidence, temperature: float, prior_mean: Vector64, prior_precision: Matrix64
) -> tuple[Vector64, Matrix64]:
    """(x, A): the most probable x_u, and the precision of the Gaussian around it that the curvatures there give.

        x = argmin sum_i w_i error(r_i, link(base_i + y_i x)) / T + (x - m)' C^-1 (x - m) / 2
        A = C^-1 + sum_i w_i h_i y_i y_i' / T

    Newton's steps, halved until they descend. The first step, and some after each that had to be halved, take for h the
    slope over the distance from the rating instead, where that is larger: far from a rating a robust error hardly
    curves, and that parabola lies above it (Huber 1981, section 7.8). The Laplace approximation of MacKay 1992; for
    (r - r_hat)^2 / 2 and T = s2 one step gives the ridge solution.
    """
    search = _Search(loss, evidence, temperature, prior_mean, prior_precision)
    x, value = prior_mean.copy(), search.objective(prior_mean)
    n_wary, n_poor = 1, 0
    for _ in range(_MOST_STEPS):
        is_wary = n_wary > 0
        step, promised = search.step(x, is_wary)
        if not promised < -_SETTLED * max(abs(value), 1.0):
            if is_wary or not np.isfinite(promised):
                break
            n_wary = 1
            continue
        length = search.length(x, value, step, promised)
        if length == 0.0 and is_wary:
            break
        n_poor += not is_wary and length < 1.0
        n_wary = n_wary - 1 if is_wary else 2**n_poor if length < 1.0 else 0
        x = x + length * step
        value = search.objective(x)
    return x, search.hessian(x)


def working_pulls(loss: Loss, evidence: Evidence, temperature: float, bias: float, factors: Vector32) -> Vector64:
    """w_i (h_i y_i x - s_i) / T of each rating at x = [bias, factors]: times y_i, they and C^-1 m add up to A x."""
    added = evidence.y @ np.append(np.float64(bias), factors)
    _, slopes, curvatures = derivatives_of(loss)(evidence.r, evidence.base + added)
    pulls: Vector64 = evidence.weight / temperature * (curvatures * added - slopes)
    return pulls


class _Search:
    """The objective of one user, and the steps that descend it."""

    def __init__(
        self, loss: Loss, evidence: Evidence, temperature: float, prior_mean: Vector64, prior_precision: Matrix64
    ) -> None:
        self.derivatives = derivatives_of(loss)
        self.evidence = evidence
        self.weight = evidence.weight / temperature
        self.prior_mean = prior_mean
        self.prior_precision = prior_precision
        self.fitting = loss.scores_of(evidence.r)

    def objective(self, x: Vector64) -> float:
        errors, _, _ = self._at(x)
        off = x - self.prior_mean
        total = float(self.weight @ errors + off @ self.prior_precision @ off / 2)
        return total if np.isfinite(total) else np.inf

    def step(self, x: Vector64, is_wary: bool) -> tuple[Vector64, float]:
        """A step, and the descent that its slope promises."""
        _, slopes, curvatures = self._at(x)
        if is_wary:
            curvatures = np.maximum(curvatures, self._secants(x, slopes))
        gradient = self.prior_precision @ (x - self.prior_mean) + self.evidence.y.T @ (self.weight * slopes)
        if not np.isfinite(gradient).all():
            return np.zeros_like(x), np.nan
        step = -np.linalg.solve(self._metric(curvatures), gradient).astype(np.float64, copy=False)
        return step, float(gradient @ step)

    def length(self, x: Vector64, value: float, step: Vector64, promised: float) -> float:
        """1 or the first half of a half that brings its share of the promised descent; 0 where none does."""
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            if self.objective(x + length * step) <= value + _ENOUGH * length * promised:
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
        distances = self.evidence.base + self.evidence.y @ x - self.fitting
        with np.errstate(all="ignore"):
            secants = slopes / distances
        usable = np.isfinite(secants) & (np.abs(distances) > _NEAR)
        return np.where(usable, np.maximum(secants, 0.0), 0.0)
