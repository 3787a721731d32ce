"""From a declared loss to the text of its slope, as the kernel template takes it.

SymPy differentiates (see `symbols`), so this is imported only where a kernel is written: one that is compiled already
does not need it.
"""

from __future__ import annotations

from typing import Any

import sympy

from app.engine.losses import symbols
from app.engine.losses.base import Loss
from app.engine.losses.grammar import InvalidLoss

FUNCTIONS = (
    *("absolute", "clamp", "cosh", "exponential", "huber", "log_cosh", "logarithm", "logarithm_of_1_plus", "power"),
    *("quotient", "root", "select", "sigmoid", "sign", "sinh", "softplus", "square", "tanh"),
)
"""Names that the statements call, all defined in `kernel_functions`: the template imports them from there."""

_INFIX = {"less": "<", "less_or_equal": "<=", "equal": "==", "different": "!=", "both": "&", "either": "|"}
_MAX_POWER = 512
_LARGEST = 3e38
_FACTOR_BELOW = 60
"""Operations below which common factors are taken out of a slope: quick, and enough for most losses."""


def slope_statements(loss: Loss) -> str:
    """Lines that compute float32 `r_hat` and `slope` = d error / d score from float32 `r` and `r_hat_raw`, the score.

    Straight-line code in the names of FUNCTIONS; its other names begin with `t_`. Raises InvalidLoss.
    """
    error, rating = symbols.error_of(loss)
    slope = symbols.derivative(error, symbols.SCORE, loss.error)
    for power in slope.atoms(sympy.Pow):
        if abs(power.exp) > _MAX_POWER:
            what = f"a power of a power is as high as {power.exp}"
            raise InvalidLoss(loss.error, 0, what, f"at most {_MAX_POWER}")
    if sympy.count_ops(slope) < _FACTOR_BELOW:
        slope = min(slope, sympy.factor_terms(slope), key=sympy.count_ops)
    return _statements({"r_hat": rating, "slope": slope})


def penalty_statements(loss: Loss) -> tuple[str, str]:
    """Lines that compute the slopes of the penalty, all in float32.

    The first compute `slope_of_p` and `slope_of_q` from `p` and `q`, one entry of each vector; the second
    `slope_of_b_u` and `slope_of_b_i` from `b_u` and `b_i`. Raises InvalidLoss.
    """
    penalty = symbols.penalty_of(loss)
    groups = [sympy.Symbol(name, real=True) for name in ("p", "q", "b_u", "b_i")]
    if symbols.THETA in penalty.free_symbols:
        slope = symbols.derivative(penalty, symbols.THETA, loss.penalty)
        slopes = [slope.subs(symbols.THETA, group) for group in groups]
    else:
        slopes = [symbols.derivative(penalty, group, loss.penalty) for group in groups]
    for slope, allowed in zip(slopes, (groups[:2], groups[:2], groups[2:], groups[2:]), strict=True):
        if slope.free_symbols - set(allowed):
            advice = "write a sum of terms in p and q and of terms in b_u and b_i"
            raise InvalidLoss(loss.penalty, 0, "this penalty mixes biases with vectors", advice)
    of_p, of_q, of_b_u, of_b_i = slopes
    of_entries = _statements({"slope_of_p": of_p, "slope_of_q": of_q}, prefix="t_entry_")
    return of_entries, _statements({"slope_of_b_u": of_b_u, "slope_of_b_i": of_b_i}, prefix="t_bias_")


def _statements(results: dict[str, Any], prefix: str = "t_") -> str:
    """One line per common subexpression, then one per result."""
    fresh = (sympy.Symbol(f"{prefix}{number}", real=True) for number in range(100_000))
    shared, reduced = sympy.cse(list(results.values()), symbols=fresh, order="canonical")
    lines = [f"{symbol} = {_text(expression)}" for symbol, expression in shared]
    lines += [f"{name} = {_text(expression)}" for name, expression in zip(results, reduced, strict=True)]
    return "\n".join(lines)


def _text(expression: Any) -> str:
    """Python text in which every constant is a float32 and nothing raises: float64 would halve the speed."""
    if expression.is_Symbol:
        return str(expression.name)
    if expression.is_Number:
        return f"float32({_constant(expression)!r})"
    if isinstance(expression, sympy.Add):
        return _sum(expression)
    if isinstance(expression, sympy.Mul):
        return _product(expression)
    if isinstance(expression, sympy.Pow):
        inverse = sympy.Pow(expression.base, -expression.exp)
        return _quotient([], [inverse]) if expression.exp < 0 else _power(_text(expression.base), int(expression.exp))
    name, arguments = type(expression).__name__, [_text(argument) for argument in expression.args]
    if name in _INFIX:
        return "(" + f" {_INFIX[name]} ".join(arguments) + ")"
    name = "select" if name == "choose" else name
    assert name in FUNCTIONS, name
    return f"{name}({', '.join(arguments)})"


def _constant(number: Any) -> float:
    """A number that a float32 can hold; the product of valid numbers may be larger."""
    if not abs(number) < _LARGEST:
        raise InvalidLoss(str(number)[:40], 0, "this number is too large for a kernel")
    return float(number)


def _sum(expression: Any) -> str:
    # Added terms first, so that a sum starts with a minus only if all terms are negative.
    first, *rest = sorted(expression.as_ordered_terms(), key=lambda term: bool(term.could_extract_minus_sign()))
    text = _text(first)
    for term in rest:
        text += f" - {_text(-term)}" if term.could_extract_minus_sign() else f" + {_text(term)}"
    return f"({text})"


def _product(expression: Any) -> str:
    if expression.could_extract_minus_sign():
        return f"(-{_text(-expression)})"
    under = [factor for factor in expression.args if isinstance(factor, sympy.Pow) and factor.exp < 0]
    over = [factor for factor in expression.args if factor not in under]
    return _quotient(over, [sympy.Pow(factor.base, -factor.exp) for factor in under])


def _quotient(over: list[Any], under: list[Any]) -> str:
    above = "*".join(_text(factor) for factor in over) or "float32(1.0)"
    return f"quotient({above}, {'*'.join(_text(factor) for factor in under)})" if under else f"({above})"


def _power(base: str, exponent: int) -> str:
    """Products and squares: powers are expanded before run time."""
    if exponent == 1:
        return base
    return f"({_power(base, exponent - 1)}*{base})" if exponent % 2 else f"square({_power(base, exponent // 2)})"
