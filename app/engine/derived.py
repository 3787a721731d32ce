"""A declared loss as functions of float64: the one place where `factorize` asks `app.engine.losses` for slopes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine.losses import catalog
from app.engine.losses.base import Loss

PENALTIES = {"l2": "theta**2 / 2", "none": "0"}


class UnknownLoss(ValueError):
    """No loss or penalty has this name."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"there is no {kind} {name!r}; there are {', '.join(known)}")
        self.kind = kind
        self.name = name


@dataclass(frozen=True, slots=True)
class Derived:
    """Error and penalty with their derivatives, as functions of NumPy arrays."""

    error: Callable[..., Any]
    error_slope: Callable[..., Any]
    """d error / d r_hat, of r and r_hat."""
    penalty: Callable[..., Any]
    penalty_slope: Callable[..., Any]
    """d penalty / d theta, of theta."""


def named_loss(loss: str | Loss, penalty: str) -> Loss:
    """The loss of the catalog with this penalty; raises UnknownLoss."""
    known = {each.name: each for each in catalog.ALL}
    if isinstance(loss, str) and loss not in known:
        raise UnknownLoss("loss", loss, sorted(known))
    if penalty not in PENALTIES:
        raise UnknownLoss("penalty", penalty, sorted(PENALTIES))
    chosen = known[loss] if isinstance(loss, str) else loss
    return Loss(chosen.name, chosen.error, PENALTIES[penalty], chosen.is_scale_free)


@functools.lru_cache(maxsize=32)
def derived(loss: Loss) -> Derived:
    """By SymPy, from the loss as it is declared."""
    error, error_slope, penalty, penalty_slope = _expressions(loss)
    of_rating, of_parameter = ("r", "r_hat"), ("theta",)
    return Derived(
        _as_function(of_rating, error, "numpy"),
        _as_function(of_rating, error_slope, "numpy"),
        _as_function(of_parameter, penalty, "numpy"),
        _as_function(of_parameter, penalty_slope, "numpy"),
    )


@functools.lru_cache(maxsize=32)
def compiled_slopes(loss: Loss) -> tuple[Any, Any]:
    """error_slope(r, r_hat) and penalty_slope(theta) as compiled functions that a Numba loop can be given."""
    from numba import cfunc, float64

    _, error_slope, _, penalty_slope = _expressions(loss)
    return (
        cfunc(float64(float64, float64))(_as_function(("r", "r_hat"), error_slope, "math")),
        cfunc(float64(float64))(_as_function(("theta",), penalty_slope, "math")),
    )


def _expressions(loss: Loss) -> tuple[Any, Any, Any, Any]:
    import sympy

    from app.engine.losses.codegen import _expression  # catalog text only, as `named_loss` sees to

    error, penalty = _expression(loss.error), _expression(loss.penalty)
    r_hat, theta = sympy.Symbol("r_hat", real=True), sympy.Symbol("theta", real=True)
    return error, sympy.simplify(error.diff(r_hat)), penalty, sympy.simplify(penalty.diff(theta))


def _as_function(names: tuple[str, ...], expression: Any, modules: str) -> Callable[..., Any]:
    """Plain Python of float64; a constant is spread over the shape of its arguments."""
    import sympy

    symbols = [sympy.Symbol(name, real=True) for name in names]
    function = sympy.lambdify(symbols, expression.evalf(17) if expression.is_Number else expression, modules=modules)
    if modules == "math" or not expression.is_Number:
        return function  # type: ignore[no-any-return]
    return lambda *arguments: np.full(np.shape(arguments[0]), float(expression))
