"""A declared loss as functions of float64, for `factorize`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from numba import cfunc, float64, njit

from app.engine.losses import derivatives, evaluate, symbols
from app.engine.losses.base import Loss
from app.engine.losses.declare import declare, penalty_tree
from app.engine.losses.grammar import InvalidLoss


@dataclass(frozen=True, slots=True)
class LossFunctions:
    """Error and penalty with their derivatives, as functions of NumPy arrays."""

    error: Callable[..., Any]
    error_slope: Callable[..., Any]
    """d error / d score, of r and the score p.q."""
    penalty: Callable[..., Any]
    penalty_slope: Callable[..., Any]
    """d penalty / d theta, of theta."""


def resolve_loss(loss: str | Loss, penalty: str) -> Loss:
    """The loss and the penalty of a name or an expression; raises InvalidLoss, also if the penalty is not in theta."""
    chosen = declare(loss, penalty=penalty) if isinstance(loss, str) else loss
    _penalty_slope(chosen)
    return chosen


@functools.lru_cache(maxsize=32)
def loss_functions(loss: Loss) -> LossFunctions:
    """Derived by SymPy from the declared loss."""
    of_rating = derivatives.derivatives_of(loss)
    of_penalty = sympy.lambdify([symbols.THETA], _penalty_slope(loss), modules=[derivatives.ON_ARRAYS, "numpy"])
    tree = penalty_tree(loss)
    return LossFunctions(
        lambda r, score: of_rating(r, score)[0],
        lambda r, score: of_rating(r, score)[1],
        lambda values: np.broadcast_to(evaluate.value_of(tree, {"theta": values}), np.shape(values)),
        lambda values: np.broadcast_to(np.asarray(of_penalty(values), np.float64), np.shape(values)),
    )


@functools.lru_cache(maxsize=32)
def compiled_slopes(loss: Loss) -> tuple[Any, Any]:
    """error_slope(r, score) and penalty_slope(theta) as compiled functions that a Numba loop can call."""
    error_slope = symbols.derivative(symbols.error_of(loss)[0], symbols.SCORE, loss.error)
    how = {"modules": [_on_scalars(), "math"], "cse": True}
    of_rating = sympy.lambdify([symbols.R, symbols.SCORE], error_slope, **how)
    of_theta = sympy.lambdify([symbols.THETA], _penalty_slope(loss), **how)
    return cfunc(float64(float64, float64))(of_rating), cfunc(float64(float64))(of_theta)


def _penalty_slope(loss: Loss) -> Any:
    """d penalty / d theta; raises InvalidLoss if the penalty has other names."""
    penalty = symbols.penalty_of(loss)
    if penalty.free_symbols - {symbols.THETA}:
        raise InvalidLoss(loss.penalty, 0, "this penalty must be in theta", "write it with theta alone")
    return symbols.derivative(penalty, symbols.THETA, loss.penalty)


@functools.cache
def _on_scalars() -> dict[str, Any]:
    """The functions of `derivatives.ON_ARRAYS`, for Numba and one number at a time."""

    def choose(condition: bool, yes: float, no: float) -> float:
        return yes if condition else no

    def clamp(u: float, delta: float) -> float:
        return min(max(u, -delta), delta)

    def both(*parts: bool) -> bool:
        for part in parts:  # noqa: SIM110  (Numba knows loops, not all())
            if not part:
                return False
        return True

    def either(*parts: bool) -> bool:
        for part in parts:  # noqa: SIM110
            if part:
                return True
        return False

    compiled = {each.__name__: njit(each, error_model="numpy") for each in (choose, clamp, both, either)}
    smooth = (evaluate.huber, evaluate.log_cosh, evaluate.sigmoid, evaluate.softplus)
    return {**derivatives.ON_ARRAYS, **compiled, **{each.__name__: njit(each) for each in smooth}}
