"""The value of an expression in float64, node by node: what every derivative and every kernel is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine.losses.grammar import Node

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Where an expression stops being a number: the node, what it does there, and which of the points it was."""

    node: Node
    what: str
    point: int


def value_of(node: Node, names: Mapping[str, npt.ArrayLike]) -> Numbers:
    """The expression at arrays of values by name, all of one shape; outside its domain NaN or an infinity."""
    with np.errstate(all="ignore"):
        return np.asarray(_value(node, names), np.float64)


def first_trouble(node: Node, names: Mapping[str, npt.ArrayLike]) -> Trouble | None:
    """The innermost operation that gives no finite number of finite ones, at the first point where one does."""
    for argument in node.arguments:
        if node.operation != "where" and (found := first_trouble(argument, names)):
            return found
    values = np.atleast_1d(value_of(node, names))
    if node.operation in _TRUTHS or np.isfinite(values).all():
        return None
    if node.operation == "where":
        return next((found for each in node.arguments[1:] if (found := first_trouble(each, names))), None)
    return Trouble(
        node, _WHAT.get(node.operation, "this becomes too large a number"), int(np.argmin(np.isfinite(values)))
    )


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


def _value(node: Node, names: Mapping[str, npt.ArrayLike]) -> Any:
    if node.operation == "number":
        return np.float64(float(node.value))
    if node.operation == "name":
        return np.asarray(names[node.name], np.float64)
    if node.operation == "log" and node.arguments[0].operation == "cosh":
        return log_cosh(_value(node.arguments[0].arguments[0], names))  # cosh overflows where its logarithm is small
    return _OPERATIONS[node.operation](*(_value(argument, names) for argument in node.arguments))


_TRUTHS = ("<", "<=", ">", ">=", "==", "!=", "and", "or")

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
    "and": lambda *parts: np.logical_and.reduce(np.broadcast_arrays(*parts)),
    "or": lambda *parts: np.logical_or.reduce(np.broadcast_arrays(*parts)),
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "cosh": np.cosh,
    "sinh": np.sinh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "sign": np.sign,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "huber": huber,
    "where": np.where,
}

_WHAT = {
    "/": "this divides by zero",
    "log": "this takes the logarithm of zero or a negative number",
    "log1p": "this takes the logarithm of zero or a negative number",
    "sqrt": "this takes the root of a negative number",
    "**": "this is no number (a root of a negative one, or a power of zero)",
}
