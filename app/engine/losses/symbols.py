"""Losses in SymPy: functions that differentiate by rule, and forms that cannot overflow.

Imported only where something is derived: a kernel that is compiled already does not need SymPy. The
functions are our own, so that SymPy never searches for a simplification: its Abs, sign and Max do, which takes seconds
for a malicious expression, and their derivatives are delta distributions.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy import Float, Function, Integer, Rational, Symbol

from app.engine.losses.base import Loss
from app.engine.losses.declare import error_tree, penalty_tree
from app.engine.losses.grammar import PENALTY_NAMES, InvalidLoss, Node

MAX_OPERATIONS = 3_000
"""Operations of a derivative beyond which a loss is refused."""

ZERO, ONE = Integer(0), Integer(1)
_NO_NUMBERS = (sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)
R = Symbol("r", real=True)
SCORE = Symbol("r_hat_raw", real=True)
RATING = Symbol("r_hat", real=True)
THETA = Symbol("theta", real=True)


class Rule(Function):  # type: ignore[misc]
    """A function that SymPy leaves as it is written; `slopes` are its derivatives in each argument, of the call."""

    is_real = True
    is_commutative = True
    slopes: tuple[Callable[[Any], Any], ...] = ()

    @classmethod
    def _should_evalf(cls, _argument: Any) -> int:
        """Never: SymPy would look for a function of mpmath by this one's name."""
        return -1

    def _eval_evalf(self, _precision: int) -> None:
        """Nothing, for the same reason."""

    def _eval_derivative(self, symbol: Any) -> Any:
        """The chain rule. Without slopes, as of a condition, the derivative is zero (except at a kink)."""
        inner = zip(self.slopes, self.args, strict=False)
        return sympy.Add(*(slope(self) * d for slope, argument in inner if (d := argument.diff(symbol)) != 0))


class choose(Rule):  # noqa: N801  (printed by this name)
    """One of two values, of (condition, a, b)."""

    def _eval_derivative(self, symbol: Any) -> Any:
        condition, yes, no = self.args
        yes, no = yes.diff(symbol), no.diff(symbol)
        return yes if yes == no else choose(condition, yes, no)


def _rule(name: str, *slopes: Callable[[Any], Any]) -> Any:
    return type(Rule)(name, (Rule,), {"slopes": slopes})  # type: ignore[misc]


absolute = _rule("absolute", lambda call: sign(call.args[0]))
sign: Any = _rule("sign", lambda _call: ZERO)
root = _rule("root", lambda call: ONE / (2 * call))
power = _rule("power", lambda call: call.args[1] * _raised(call.args[0], call.args[1] - 1), lambda _call: ZERO)
"""power(u, exponent): an exponent that is not a whole number"""
exponential = _rule("exponential", lambda call: call)
logarithm = _rule("logarithm", lambda call: ONE / call.args[0])
logarithm_of_1_plus = _rule("logarithm_of_1_plus", lambda call: ONE / (1 + call.args[0]))
tanh = _rule("tanh", lambda call: 1 - call**2)
cosh = _rule("cosh", lambda call: sinh(call.args[0]))
sinh: Any = _rule("sinh", lambda call: cosh(call.args[0]))
log_cosh = _rule("log_cosh", lambda call: tanh(call.args[0]))
sigmoid: Any = _rule("sigmoid", lambda call: call * sigmoid(-call.args[0]))
softplus = _rule("softplus", lambda call: sigmoid(call.args[0]))
huber = _rule(
    "huber",
    lambda call: clamp(*call.args),
    lambda call: _beyond(call, absolute(call.args[0]) - call.args[1], ZERO),
)
clamp: Any = _rule("clamp", lambda call: _beyond(call, ZERO, ONE), lambda call: _beyond(call, sign(call.args[0]), ZERO))
"""clamp(u, delta): u between -delta and delta"""
less, less_or_equal, equal, different, both, either = (
    _rule(name) for name in ("less", "less_or_equal", "equal", "different", "both", "either")
)


def _beyond(call: Any, beyond: Any, within: Any) -> Any:
    """Of (u, delta): the first value where |u| > delta, else the second."""
    u, delta = call.args
    return choose(less(delta, absolute(u)), beyond, within)


def error_of(loss: Loss) -> tuple[Any, Any]:
    """(error / divisor, r_hat) in R and SCORE, both in training units: the link is inside."""
    rating = exponential(SCORE) if loss.link == "exp" else SCORE
    if loss.link == "sigmoid":
        low, high = (_number(end) for end in loss.rating_range or (0.0, 1.0))
        rating = low + (high - low) * sigmoid(SCORE)
    unit = _number(loss.unit)
    names = {"r": unit * R, "r_hat": unit * rating}
    return _convert(error_tree(loss), names, loss.error) / _number(loss.divisor), rating


def error_before_link(loss: Loss) -> Any:
    """The error in R and RATING."""
    return _convert(error_tree(loss), {"r": R, "r_hat": RATING}, loss.error)


def penalty_of(loss: Loss) -> Any:
    """The penalty in symbols of its own names."""
    names = {name: Symbol(name, real=True) for name in PENALTY_NAMES}
    return _convert(penalty_tree(loss), names, loss.penalty)


def derivative(expression: Any, symbol: Any, text: str) -> Any:
    """d expression / d symbol; raises InvalidLoss if it is too long to compute for every rating."""
    slope = expression.diff(symbol)
    if slope.has(*_NO_NUMBERS):
        raise InvalidLoss(text, 0, "the derivative of this divides by zero")
    if sympy.count_ops(slope) > MAX_OPERATIONS:
        raise InvalidLoss(text, 0, "the derivative of this is too long", "write a shorter error term")
    return slope


def _number(value: Fraction | float) -> Any:
    if isinstance(value, float):
        exact = Fraction(repr(value))
        if max(abs(exact.numerator), exact.denominator) >= 10**15:
            return Float(value)
        value = exact
    return Rational(value.numerator, value.denominator)


def _convert(node: Node, names: dict[str, Any], text: str) -> Any:
    if node.operation == "number":
        return _number(node.value)
    if node.operation == "name":
        return names[node.name]
    built = _BUILD[node.operation](*(_convert(argument, names, text) for argument in node.arguments))
    if built in _NO_NUMBERS:
        raise InvalidLoss(text, node.position, "this divides by zero")
    return built


def _raised(base: Any, exponent: Any) -> Any:
    if exponent == 0:
        return ONE
    if exponent.is_Integer:
        return sympy.Pow(base, exponent)
    if exponent == Rational(1, 2):
        return root(base)
    if exponent == Rational(-1, 2):
        return ONE / root(base)
    return power(base, exponent)


def _log(u: Any) -> Any:
    """log(u), in a form that does not overflow where u would."""
    if isinstance(u, exponential):
        return u.args[0]
    if isinstance(u, cosh):
        return log_cosh(u.args[0])
    if isinstance(u, sigmoid):
        return -softplus(-u.args[0])
    if u.is_Number and u > 0:
        return Float(sympy.log(u).evalf(20))
    if isinstance(u, sympy.Mul) and u.args[0].is_Number and u.args[0] > 0:
        return _log(u.args[0]) + _log(sympy.Mul(*u.args[1:]))
    if isinstance(u, sympy.Add) and len(u.args) == 2:
        first, rest = u.args
        factor, function = rest.as_coeff_Mul()
        if first == 1 and isinstance(rest, exponential):
            return softplus(rest.args[0])
        if first.is_Number and first > 0 and factor == -first and isinstance(function, sigmoid):
            return _log(first) - softplus(function.args[0])  # log(c - c sigmoid(x)) = log c + log sigmoid(-x)
    return logarithm(u)


def _divided(a: Any, b: Any) -> Any:
    if isinstance(a, sinh) and isinstance(b, cosh) and a.args == b.args:
        return tanh(a.args[0])
    if isinstance(b, sympy.Add) and b.args[0] == 1 and len(b.args) == 2 and isinstance(b.args[1], exponential):
        return a * sigmoid(-b.args[1].args[0])
    return a / b


_BUILD: dict[str, Any] = {
    "negate": lambda a: -a,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divided,
    "**": _raised,
    ">": lambda a, b: less(b, a),
    ">=": lambda a, b: less_or_equal(b, a),
    "<": less,
    "<=": less_or_equal,
    "==": equal,
    "!=": different,
    "and": both,
    "or": either,
    "abs": lambda u: u if isinstance(u, absolute | root | exponential) else absolute(u),
    "log": _log,
    "log1p": lambda u: softplus(u.args[0]) if isinstance(u, exponential) else logarithm_of_1_plus(u),
    "minimum": lambda a, b: choose(less(b, a), b, a),
    "maximum": lambda a, b: choose(less(a, b), b, a),
    "sqrt": root,
    "exp": exponential,
    "where": choose,
    **{function.__name__: function for function in (tanh, cosh, sinh, sigmoid, softplus, sign, huber)},
}
