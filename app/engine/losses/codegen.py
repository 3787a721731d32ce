"""From a declared loss to the text of its slope, as the kernel template takes it.

SymPy differentiates; it is imported on first use only, since a kernel that was compiled before needs none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.engine.losses.base import Loss


class UnsupportedPenalty(ValueError):
    """The vector kernel shrinks parameters by a factor, which is right for the L2 penalty alone."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"loss {loss.name!r} has penalty {loss.penalty!r}; only theta**2 / 2 is supported")
        self.loss = loss


def error_slope(loss: Loss) -> str:
    """d error / d r_hat as Python text in float32 variables r and r_hat."""
    import sympy

    r_hat = sympy.Symbol("r_hat", real=True)
    slope = sympy.simplify(sympy.diff(_expression(loss.error), r_hat))
    return _float32_text(slope)


def check_penalty(loss: Loss) -> None:
    """Raises UnsupportedPenalty unless the penalty's slope is theta itself, i.e. weight decay."""
    import sympy

    theta = sympy.Symbol("theta", real=True)
    if sympy.simplify(sympy.diff(_expression(loss.penalty), theta) - theta) != 0:
        raise UnsupportedPenalty(loss)


def error_value(loss: Loss) -> Callable[[float, float], float]:
    """The declared error as a plain function of r and r_hat."""
    import sympy

    r, r_hat = (sympy.Symbol(name, real=True) for name in ("r", "r_hat"))
    return sympy.lambdify((r, r_hat), _expression(loss.error), modules="math")  # type: ignore[no-any-return]


def _expression(text: str) -> Any:
    """Catalog text only: SymPy's parser evaluates what it reads, so text from outside must never come here."""
    import sympy

    names = {name: sympy.Symbol(name, real=True) for name in ("r", "r_hat", "theta")}
    return sympy.sympify(text, locals=names)


def _float32_text(expression: Any) -> str:
    """Python text in which every constant is a float32 and small powers are products: float64 would halve the speed."""
    from sympy.printing.pycode import PythonCodePrinter

    class Float32Printer(PythonCodePrinter):  # type: ignore[misc]
        def _print_Integer(self, number: Any) -> str:  # noqa: N802  (SymPy finds printers by name)
            return f"float32({int(number)})"

        def _print_Float(self, number: Any) -> str:  # noqa: N802
            return f"float32({float(number)!r})"

        def _print_Rational(self, number: Any) -> str:  # noqa: N802
            return self._print_Float(number)

        def _print_Pow(self, power: Any, rational: bool = False) -> str:  # noqa: N802
            base, exponent = power.as_base_exp()
            if exponent.is_Integer and 2 <= exponent <= 4:
                return "(" + "*".join([f"({self._print(base)})"] * int(exponent)) + ")"
            return str(super()._print_Pow(power, rational))

    return str(Float32Printer({"fully_qualified_modules": True}).doprint(expression))
