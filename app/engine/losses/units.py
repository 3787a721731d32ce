"""The units in which a loss is trained, so that one learning rate suits every loss and every rating scale.

With the identity link, ratings are divided by their standard deviation s, and error(s r, s r_hat) is minimized with r
and r_hat in those units. If the error is homogeneous, the factor comes out and any s will do; otherwise s becomes a
constant of the kernel, rounded so that few kernels are ever compiled. With another link scores have a unit of their
own, and nothing is rescaled.

The error is divided by its slope one unit away from the rating. For (r - r_hat)^2 / 2 that is 1; any other loss then
takes steps about as long as those of the squared error, and a penalty weighs about as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree
from app.engine.losses.evaluate import value_of
from app.engine.losses.grammar import Node

_ANY = "any"
"""Degree of zero: 0 = c^n 0 for every n."""

Degree = Fraction | str | None


@dataclass(frozen=True, slots=True)
class TrainingUnits:
    """`loss` as the kernel gets it, on ratings divided by `scale`."""

    loss: Loss
    scale: float
    mean: float
    """Mean score that every prediction starts from, not yet divided by `scale`."""


def training_units(loss: Loss, mean: float, spread: float) -> TrainingUnits:
    """For ratings of this mean and standard deviation."""
    score = loss.score_of(mean)
    if loss.link != "identity":
        return TrainingUnits(loss.replace(divisor=_slope_at_one_unit(loss, score)), 1.0, score)
    is_homogeneous = degree_of(loss) is not None
    scale = spread if is_homogeneous else _rounded(spread)
    in_units = loss if is_homogeneous else loss.replace(unit=scale)
    return TrainingUnits(in_units.replace(divisor=_slope_at_one_unit(in_units, mean / scale)), scale, score)


def degree_of(loss: Loss) -> Fraction | None:
    """n where error(c r, c r_hat) = c^n error(r, r_hat) for every c > 0, from the expression; else None."""
    degree = _degree(error_tree(loss))
    return degree if isinstance(degree, Fraction) else None


def _slope_at_one_unit(loss: Loss, score: float) -> float:
    """|d error / d score| where the score is one unit above or below the one that fits the rating; their mean."""
    tree, slopes = error_tree(loss), []
    score = _rounded(score) if loss.link == "exp" else score
    for fitting in (score - 1.0, score + 1.0):
        r = np.full(2, loss.unit * loss.rating_of(fitting))
        r_hat = loss.unit * loss.rating_of(score + np.array([-1e-4, 1e-4]))
        below, above = value_of(tree, {"r": r, "r_hat": r_hat})
        with np.errstate(invalid="ignore"):
            slopes.append(abs(above - below) / 2e-4)
    slope = float(np.mean(slopes))
    return _rounded(slope) if math.isfinite(slope) and slope > 0 else 1.0


def _rounded(number: float) -> float:
    """The nearest of 4 steps per doubling: within 9 %."""
    if number == 0:
        return 0.0
    return math.copysign(2.0 ** (round(4 * math.log2(abs(number))) / 4), number)


def _degree(node: Node) -> Degree:
    degrees = [_degree(argument) for argument in node.arguments]
    if any(degree is None for degree in degrees):
        return None
    if node.operation == "number":
        return _ANY if node.value == 0 else Fraction(0)
    if node.operation in _DEGREES:
        return _DEGREES[node.operation](node, degrees)
    if node.operation in _SAME:
        return _common(degrees)
    return Fraction(0) if all(degree in (Fraction(0), _ANY) for degree in degrees) else None


def _common(degrees: Sequence[Degree]) -> Degree:
    """The degree that all share; a zero fits any."""
    distinct = {degree for degree in degrees if degree != _ANY}
    return None if len(distinct) > 1 else distinct.pop() if distinct else _ANY


def _times(degree: Degree, factor: Fraction | float) -> Degree:
    return degree * Fraction(factor) if isinstance(degree, Fraction) else degree


def _plus(left: Degree, right: Degree, sign: int) -> Degree:
    return left + sign * right if isinstance(left, Fraction) and isinstance(right, Fraction) else _ANY


_SAME = {"negate", "abs", "+", "-", "minimum", "maximum", "<", "<=", ">", ">=", "==", "!="}
"""Operations whose arguments must have one degree, which is that of the result."""

_DEGREES: dict[str, Callable[[Node, list[Degree]], Degree]] = {
    "name": lambda _node, _degrees: Fraction(1),
    "sqrt": lambda _node, degrees: _times(degrees[0], Fraction(1, 2)),
    "*": lambda _node, degrees: _plus(degrees[0], degrees[1], 1),
    "/": lambda _node, degrees: _plus(degrees[0], degrees[1], -1),
    "**": lambda node, degrees: _times(degrees[0], node.arguments[1].value),
    **dict.fromkeys(("sign", "and", "or"), lambda _node, _degrees: Fraction(0)),
    "huber": lambda _node, degrees: _times(_common(degrees), Fraction(2)),
    "where": lambda _node, degrees: _common(degrees[1:]),
}
