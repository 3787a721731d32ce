"""The value of an expression in float64, node by node: the reference for every derivative and every kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Vector64
from app.engine.losses.grammar import Node


@dataclass(frozen=True, slots=True)
class NotFinite:
    """An operation without a finite result: its node, the reason, and the index of the point."""

    node: Node
    what: str
    point: int


def value_of(node: Node, names: Mapping[str, npt.ArrayLike]) -> Vector64:
    """The expression at arrays of values by name, all of one shape; NaN or infinite outside its domain."""
    with np.errstate(all="ignore"):
        return np.asarray(_value(node, names), np.float64)


def first_not_finite(node: Node, names: Mapping[str, npt.ArrayLike]) -> NotFinite | None:
    """The innermost operation whose result is not finite, at the first such point; None if there is none."""
    for argument in node.arguments:
        if node.operation != "where" and (inner := first_not_finite(argument, names)):
            return inner
    values = np.atleast_1d(value_of(node, names))
    if node.operation in _CONDITIONS or np.isfinite(values).all():
        return None
    if node.operation == "where":
        return next((inner for each in node.arguments[1:] if (inner := first_not_finite(each, names))), None)
    return NotFinite(node, _REASONS.get(node.operation, "this overflows"), int(np.argmin(np.isfinite(values))))


def sigmoid(u: Any) -> Any:
    """1 / (1 + exp(-u)), without an overflow on either side."""
    small = np.exp(-np.abs(u))
    return np.where(u >= 0, 1.0, small) / (1.0 + small)


def softplus(u: Any) -> Any:
    """log(1 + exp(u))."""
    return np.maximum(u, 0.0) + np.log1p(np.exp(-np.abs(u)))


def log_cosh(u: Any) -> Any:
    """log(cosh(u))."""
    return np.abs(u) + np.log1p(np.exp(-2.0 * np.abs(u))) - np.log(2.0)


def huber(u: Any, delta: Any) -> Any:
    """Huber 1964: u^2 / 2 within delta, delta (|u| - delta / 2) beyond."""
    size = np.abs(u)
    within = np.minimum(size, delta)
    return within * (size - within / 2.0)


def all_of(*conditions: Any) -> Any:
    """Where all conditions hold."""
    return np.logical_and.reduce(np.broadcast_arrays(*conditions))


def any_of(*conditions: Any) -> Any:
    """Where one of the conditions holds."""
    return np.logical_or.reduce(np.broadcast_arrays(*conditions))


def _value(node: Node, names: Mapping[str, npt.ArrayLike]) -> Any:
    if node.operation == "number":
        return np.float64(float(node.value))
    if node.operation == "name":
        return np.asarray(names[node.name], np.float64)
    if node.operation == "log" and node.arguments[0].operation == "cosh":
        return log_cosh(_value(node.arguments[0].arguments[0], names))  # cosh overflows where its logarithm is small
    return _OPERATIONS[node.operation](*(_value(argument, names) for argument in node.arguments))


_CONDITIONS = ("<", "<=", ">", ">=", "==", "!=", "and", "or")

_OPERATIONS: dict[str, Any] = {
    "negate": np.negative,
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
    "and": all_of,
    "or": any_of,
    **{name: getattr(np, name) for name in ("abs", "sqrt", "exp", "log", "log1p", "tanh", "cosh", "sinh", "sign")},
    **{name: getattr(np, name) for name in ("minimum", "maximum", "where")},
    **{function.__name__: function for function in (sigmoid, softplus, huber)},
}

_REASONS = {
    "/": "this divides by zero",
    "log": "this takes the logarithm of zero or a negative number",
    "log1p": "this takes the logarithm of zero or a negative number",
    "sqrt": "this takes the root of a negative number",
    "**": "this has no value (a root of a negative number, or a negative power of zero)",
}
