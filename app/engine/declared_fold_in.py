"""A user's vector under a declared loss: no closed form, so Newton's method with the derived derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.arrays import Matrix64, Vector64
from app.engine.losses.base import Loss
from app.engine.losses.derivatives import derivatives_of

_MOST_STEPS = 100
_MOST_HALVINGS = 40
_ENOUGH = 1e-4
"""Share of the promised descent that a step must bring (Armijo; Nocedal & Wright 2006, eq. 3.4)."""
_SETTLED = 1e-12
"""Promised descent, relative to the objective, below which nothing changes any more."""


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

    Newton's steps, halved until they descend; where h had to be taken for zero everywhere they are steps of descent.
    The Laplace approximation of MacKay 1992; for (r - r_hat)^2 / 2 and T = s2 one step gives the ridge solution.
    """
    derivatives = derivatives_of(loss)
    weight = evidence.weight / temperature

    def objective(x: Vector64) -> float:
        errors, _, _ = derivatives(evidence.r, evidence.base + evidence.y @ x)
        off = x - prior_mean
        total = float(weight @ errors + off @ prior_precision @ off / 2)
        return total if np.isfinite(total) else np.inf

    x = prior_mean.copy()
    value = objective(x)
    for _ in range(_MOST_STEPS):
        _, slopes, curvatures = derivatives(evidence.r, evidence.base + evidence.y @ x)
        gradient = prior_precision @ (x - prior_mean) + evidence.y.T @ (weight * slopes)
        hessian = _hessian(evidence.y, weight * curvatures, prior_precision)
        if not np.isfinite(gradient).all():
            break
        found = _descended(objective, x, value, gradient, hessian)
        if found is None:  # a curvature that holds at this point only: the prior's alone still descends
            found = _descended(objective, x, value, gradient, prior_precision)
        if found is None:
            break
        x, value = found
    _, _, curvatures = derivatives(evidence.r, evidence.base + evidence.y @ x)
    return x, _hessian(evidence.y, weight * curvatures, prior_precision)


def _hessian(y: Matrix64, weighted: Vector64, prior_precision: Matrix64) -> Matrix64:
    hessian: Matrix64 = prior_precision + (y * weighted[:, None]).T @ y
    return hessian


def _descended(
    objective: object, x: Vector64, value: float, gradient: Vector64, metric: Matrix64
) -> tuple[Vector64, float] | None:
    """The point and value after one step along -metric^-1 gradient; None where it has settled or does not descend."""
    assert callable(objective)
    step = -np.linalg.solve(metric, gradient)
    promised = float(gradient @ step)
    if not promised < -_SETTLED * max(abs(value), 1.0):
        return None
    length = 1.0
    for _ in range(_MOST_HALVINGS):
        reached = float(objective(x + length * step))
        if reached <= value + _ENOUGH * length * promised:
            return x + length * step, reached
        length /= 2
    return None
