"""The language of losses: arithmetic, a list of names and a list of functions, and nothing else.

Python's parser reads the text for its syntax alone. From its tree only what is listed here is copied, node by node, to
a tree of our own; anything else is refused with its position. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

MAX_LENGTH = 1_000
MAX_DEPTH = 30
MAX_NODES = 200
MAX_EXPONENT = 16
MAX_NUMBER = 1e30
"""Beyond it a float32 overflows in a square or two."""

FUNCTIONS: Mapping[str, int] = {
    **dict.fromkeys(("abs", "sqrt", "exp", "log", "log1p", "tanh", "cosh", "sinh", "sigmoid", "softplus", "sign"), 1),
    **dict.fromkeys(("minimum", "maximum", "huber"), 2),
    "where": 3,
}
"""Every function, with its number of arguments."""

ERROR_NAMES = ("r", "r_hat")
PENALTY_NAMES = ("theta", "p", "q", "b_u", "b_i")
RANGE_NAMES = ("low", "high")
"""Ends of the rating range, which every error may use."""
_ALLOWED = f"allowed are numbers, names, + - * / ** and the functions {', '.join(FUNCTIONS)}"

_ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_LOGIC = {ast.And: "and", ast.Or: "or"}
_WORDS: Mapping[type[ast.AST], str] = {
    ast.Attribute: "an attribute",
    ast.Subscript: "an index",
    ast.Lambda: "a lambda",
    ast.IfExp: "a conditional expression",
    ast.JoinedStr: "a string",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.ListComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
    ast.Await: "an await",
    ast.Yield: "a yield",
}


class InvalidLoss(ValueError):
    """An invalid loss: what is wrong with it, where in its text (from 0), and what to write instead."""

    def __init__(self, text: str, position: int, what: str, hint: str = "") -> None:
        self.text = text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + "..."
        self.position = position
        self.what = what
        self.hint = hint
        shown = _excerpt(text, position)
        message = f"{what} at character {position + 1}" + (f", at {shown!r}" if shown else "")
        super().__init__(message + (f"; {hint}" if hint else ""))


@dataclass(frozen=True, slots=True)
class Node:
    """A number, a name, or an operation on other nodes; `position` is its start in the text.

    operation: "number" with `value`, "name" with `name`, "negate", an operator or comparison as written, "and",
    "or", or the name of a function.
    """

    operation: str
    position: int
    arguments: tuple[Node, ...] = ()
    value: Fraction | float = 0
    name: str = ""


def parse(text: str, names: Collection[str], parameters: Mapping[str, float] | None = None) -> Node:
    """The tree of an expression in these names and parameters, which become numbers; raises InvalidLoss only."""
    start = _start_of_expression(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(text[start:], mode="eval")
    except (SyntaxError, SyntaxWarning) as error:
        column = (error.offset or 1) - 1 if isinstance(error, SyntaxError) else 0
        reason = str(error.msg if isinstance(error, SyntaxError) else error)
        position = min(max(start + column, 0), max(len(text) - 1, 0))
        raise InvalidLoss(text, position, f"this is not an expression ({reason})") from None
    except (MemoryError, RecursionError):
        raise InvalidLoss(text, start, "this is nested too deeply", f"at most {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidLoss(text, start, f"this cannot be read ({error})") from None
    return _Converter(text, start, names, parameters or {}).convert(tree.body)


def names_in(node: Node) -> set[str]:
    """The names that an expression depends on."""
    if node.operation == "name":
        return {node.name}
    return set().union(*(names_in(argument) for argument in node.arguments))


def _start_of_expression(text: str) -> int:
    """Position of the first character that is not a space; refuses text that the parser should not get."""
    if len(text) > MAX_LENGTH:
        raise InvalidLoss(text, MAX_LENGTH, "this is too long", f"at most {MAX_LENGTH} characters")
    for position, character in enumerate(text):
        if not " " <= character <= "~":
            advice = "write it in plain ASCII on one line"
            raise InvalidLoss(text, position, f"the character {character!a} is not allowed", advice)
        if character in "\"'#\\@`$?;:{}[]":
            raise InvalidLoss(text, position, f"the character {character!r} is not allowed", _ALLOWED)
    start = len(text) - len(text.lstrip(" "))
    if start == len(text):
        raise InvalidLoss(text, 0, "there is no expression", "for example (r - r_hat)**2 / 2")
    return start


class _Converter:
    """Converts Python's tree to ours."""

    def __init__(self, text: str, start: int, names: Collection[str], parameters: Mapping[str, float]) -> None:
        self.text = text
        self.start = start
        self.names = names
        self.parameters = parameters
        self.n_nodes = 0

    def convert(self, tree: ast.expr, depth: int = 0, *, is_condition: bool = False) -> Node:
        self.n_nodes += 1
        if depth > MAX_DEPTH:
            raise self.refusal(tree, "this is nested too deeply", f"at most {MAX_DEPTH} levels")
        if self.n_nodes > MAX_NODES:
            raise self.refusal(tree, "this is too long", f"at most {MAX_NODES} numbers, names and operations")
        if is_condition:
            return self.condition(tree, depth)
        match tree:
            case ast.Constant():
                return self.number(tree)
            case ast.Name():
                return self.variable(tree)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                inner = self.convert(tree.operand, depth + 1)
                return inner if isinstance(tree.op, ast.UAdd) else self.node(tree, "negate", inner)
            case ast.BinOp() if type(tree.op) in _ARITHMETIC:
                return self.arithmetic(tree, depth)
            case ast.Call():
                return self.call(tree, depth)
            case ast.Compare() | ast.BoolOp():
                raise self.refusal(tree, "a comparison is not a number", "compare inside where(condition, a, b)")
        raise self.refusal(tree, f"{_word(tree)} is not allowed", _ALLOWED)

    def number(self, tree: ast.Constant) -> Node:
        if isinstance(tree.value, bool) or not isinstance(tree.value, (int, float)):
            raise self.refusal(tree, f"{_word(tree)} is not a number", _ALLOWED)
        value: int | float = tree.value
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise self.refusal(tree, "this number is too large", f"at most {MAX_NUMBER:g}")
        return Node("number", self.position(tree), value=_simplified(Fraction(repr(value))))

    def variable(self, tree: ast.Name) -> Node:
        if tree.id in self.names:
            return Node("name", self.position(tree), name=tree.id)
        if tree.id in self.parameters:
            value = _simplified(Fraction(repr(float(self.parameters[tree.id]))))
            return Node("number", self.position(tree), value=value)
        known = f"there are {', '.join([*self.names, *self.parameters])}; other names are declared as parameters"
        hint = f"{tree.id} is a function: write {tree.id}(...)" if tree.id in FUNCTIONS else known
        raise self.refusal(tree, f"the name {tree.id[:40]} is not known here", hint)

    def arithmetic(self, tree: ast.BinOp, depth: int) -> Node:
        left, right = self.convert(tree.left, depth + 1), self.convert(tree.right, depth + 1)
        operation = _ARITHMETIC[type(tree.op)]
        if operation == "/" and right.operation == "number" and right.value == 0:
            raise self.refusal(tree, "this divides by zero")
        if operation == "**":
            if right.operation != "number":
                raise self.refusal(tree.right, "an exponent must be a number", "exp(b * log(a)) raises a to b")
            if not -MAX_EXPONENT <= right.value <= MAX_EXPONENT:
                raise self.refusal(tree.right, "this exponent is too large", f"at most {MAX_EXPONENT}")
        return self.node(tree, operation, left, right)

    def call(self, tree: ast.Call, depth: int) -> Node:
        if not isinstance(tree.func, ast.Name):
            raise self.refusal(tree.func, f"{_word(tree.func)} cannot be called", _ALLOWED)
        name = tree.func.id
        if name not in FUNCTIONS:
            raise self.refusal(tree.func, f"the function {name[:40]} is not known", f"there are {', '.join(FUNCTIONS)}")
        if tree.keywords:
            raise self.refusal(tree.keywords[0].value, f"{name} takes no named arguments")
        if len(tree.args) != FUNCTIONS[name]:
            raise self.refusal(tree, f"{name} takes {FUNCTIONS[name]} arguments, not {len(tree.args)}")
        is_choice = name == "where"
        arguments = (
            self.convert(argument, depth + 1, is_condition=is_choice and number == 0)
            for number, argument in enumerate(tree.args)
        )
        return self.node(tree, name, *arguments)

    def condition(self, tree: ast.expr, depth: int) -> Node:
        match tree:
            case ast.Compare() if all(type(op) in _COMPARISONS for op in tree.ops):
                sides = [self.convert(side, depth + 1) for side in (tree.left, *tree.comparators)]
                parts = [
                    Node(_COMPARISONS[type(op)], self.position(tree), (sides[number], sides[number + 1]))
                    for number, op in enumerate(tree.ops)
                ]
                return parts[0] if len(parts) == 1 else Node("and", self.position(tree), tuple(parts))
            case ast.BoolOp():
                parts = [self.convert(value, depth + 1, is_condition=True) for value in tree.values]
                return Node(_LOGIC[type(tree.op)], self.position(tree), tuple(parts))
        raise self.refusal(
            tree, "the first argument of where must be a comparison", "for example where(r > r_hat, a, b)"
        )

    def node(self, tree: ast.expr, operation: str, *arguments: Node) -> Node:
        """The operation, or its value if all its arguments are numbers."""
        position = self.position(tree)
        if operation in _EXACT and all(argument.operation == "number" for argument in arguments):
            try:
                value = _EXACT[operation](*(argument.value for argument in arguments))
                if isinstance(value, complex) or not abs(value) <= MAX_NUMBER:
                    raise OverflowError
            except ZeroDivisionError:
                raise InvalidLoss(self.text, position, "this divides by zero") from None
            except (OverflowError, ValueError):
                raise InvalidLoss(self.text, position, "this is not a real number, or too large") from None
            return Node("number", position, value=_simplified(value))
        return Node(operation, position, arguments)

    def position(self, tree: ast.expr) -> int:
        return self.start + tree.col_offset

    def refusal(self, tree: ast.expr, what: str, hint: str = "") -> InvalidLoss:
        return InvalidLoss(self.text, self.position(tree), what, hint)


_EXACT: dict[str, Any] = {
    "negate": lambda a: -a,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: float(a) ** float(b) if isinstance(b, float) or b.denominator != 1 else a ** int(b),
}
"""Arithmetic of numbers, exact as long as they are short."""


def _simplified(value: Fraction | float) -> Fraction | float:
    """A fraction of few digits, or else the nearest float: exact arithmetic must not grow without bounds."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return value
    return value if max(abs(value.numerator), value.denominator) < 10**15 else float(value)


def _excerpt(text: str, position: int) -> str:
    excerpt = text[position : position + 20]
    return excerpt.encode("ascii", "backslashreplace").decode() + ("..." if len(text) > position + 20 else "")


def _word(tree: ast.expr) -> str:
    if isinstance(tree, ast.Constant):
        return {str: "a string", bytes: "a string", bool: "True or False"}.get(type(tree.value), "this constant")
    if isinstance(tree, ast.BinOp | ast.UnaryOp):
        return "this operator"
    return _WORDS.get(type(tree), "this")
