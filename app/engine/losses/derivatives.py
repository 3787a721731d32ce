"""A loss's value and its first and second derivative as functions of float64 arrays; weight decay of a penalty."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from app.engine.arrays import Vector64
from app.engine.losses import evaluate
from app.engine.losses.base import L2, NO_PENALTY, Loss
from app.engine.losses.catalog import PENALTIES

Derivatives = Callable[[Vector64, Vector64], tuple[Vector64, Vector64, Vector64]]

ON_ARRAYS: dict[str, Any] = {
    **{name: getattr(np, name) for name in ("cosh", "equal", "less", "power", "sign", "sinh", "tanh")},
    **{name: getattr(evaluate, name) for name in ("huber", "log_cosh", "sigmoid", "softplus")},
    "less_or_equal": np.less_equal,
    "different": np.not_equal,
    "both": evaluate.all_of,
    "either": evaluate.any_of,
    "absolute": np.abs,
    "exponential": np.exp,
    "logarithm": np.log,
    "logarithm_of_1_plus": np.log1p,
    "root": np.sqrt,
    "choose": np.where,
    "clamp": lambda u, delta: np.clip(u, -delta, delta),
}
"""The functions of `symbols` on float64 arrays."""

_KNOWN_DECAY: dict[str, float | None] = {PENALTIES["elastic_net"][0]: None, L2: 1.0, NO_PENALTY: 0.0}
"""Of the named penalties: a kernel that is compiled already does not need SymPy."""


def decay_of(loss: Loss) -> float | None:
    """c if the penalty is weight decay, its slope c theta for every parameter; else None.

    Weight decay uses the vector kernel, any other penalty the plain loop.
    """
    if loss.penalty in _KNOWN_DECAY:
        return _KNOWN_DECAY[loss.penalty]
    import sympy

    from app.engine.losses import symbols

    penalty = symbols.penalty_of(loss)
    if penalty.free_symbols and symbols.THETA not in penalty.free_symbols:
        return None
    slope = symbols.derivative(penalty, symbols.THETA, loss.penalty)
    ratio = sympy.expand(slope / symbols.THETA) if sympy.count_ops(slope) < 50 else slope
    return float(ratio) if ratio.is_Number else None


@lru_cache(maxsize=32)
def derivatives_of(loss: Loss) -> Derivatives:
    """(r, score) -> error, its slope in the score, and a curvature that is never negative.

    The curvature is the second derivative where that is positive, elsewhere its part that does not bend the link
    (Gauss-Newton: Schraudolph 2002, section 2), or zero. Raises InvalidLoss.
    """
    import sympy

    from app.engine.losses import symbols

    error, rating = symbols.error_of(loss)
    slope = symbols.derivative(error, symbols.SCORE, loss.error)
    second = symbols.derivative(slope, symbols.SCORE, loss.error)
    before = symbols.error_before_link(loss)
    bend = symbols.derivative(before.diff(symbols.RATING), symbols.RATING, loss.error)
    gauss_newton = bend.subs({symbols.R: loss.unit * symbols.R, symbols.RATING: loss.unit * rating})
    gauss_newton *= (loss.unit * rating.diff(symbols.SCORE)) ** 2 / loss.divisor
    results = [error, slope, second, gauss_newton]
    # The text that this compiles is SymPy's print of a tree of our own nodes, as with the kernels.
    compiled: Any = sympy.lambdify([symbols.R, symbols.SCORE], results, modules=[ON_ARRAYS, "numpy"], cse=True)

    def derivatives(r: Vector64, score: Vector64) -> tuple[Vector64, Vector64, Vector64]:
        with np.errstate(all="ignore"):
            errors, slopes, curvatures, without_bend = (
                np.broadcast_to(np.asarray(part, np.float64), score.shape) for part in compiled(r, score)
            )
            convex = np.where(curvatures > 0, curvatures, np.maximum(without_bend, 0.0))
        return errors, slopes, np.where(np.isfinite(convex), convex, 0.0)

    return derivatives
