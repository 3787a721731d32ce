"""The space of a search: for each hyperparameter, `loss` or number of a loss the values that may be tried."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter
from app.engine.losses.declare import words_of
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import LOSS, LOSS_PARAMETER, Recipe, Value

_MAX_VALUES = 1_000


class InvalidSpace(ValueError):
    """A space that cannot be searched: names the parameter and what is allowed."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included; `log` samples the logarithm uniformly; `step` counts from low."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """One of these values."""

    values: tuple[Value, ...]


Dimension = Range | Choices
Space = dict[str, Dimension]

DEFAULT_SPACE: dict[str, dict[str, Any]] = {
    "n_factors": {"choices": [8, 16, 32, 64]},
    "learning_rate": {"low": 0.005, "high": 0.1, "log": True},
    "regularization": {"low": 0.01, "high": 0.3, "log": True},
    "reg_bias": {"low": 0.005, "high": 0.3, "log": True},
}
"""The hyperparameters that matter most, around values that suit most ratings."""


def parse_space(definition: Mapping[str, Mapping[str, Any]], base: Recipe | None = None) -> Space:
    """{"learning_rate": {"low": 0.01, "high": 0.1, "log": true}, "loss": {"choices": ["squared", "huber"]}}, checked.

    A number of a loss, such as `loss.delta`, must be named by one of the losses that are tried; if the space has no
    `loss`, by the base's. Raises InvalidSpace for unknown names, values that a fit would refuse, and empty ranges.
    """
    if not definition:
        raise InvalidSpace("space", "needs at least one hyperparameter")
    base = base or Recipe(Hyperparameters())
    losses = definition.get(LOSS, {}).get("choices") or [base.loss_text]
    return {name: _dimension(name, each, _Check(name, base, losses)) for name, each in definition.items()}


def contains(dimension: Dimension, value: Value) -> bool:
    """Whether the value may be tried."""
    if isinstance(dimension, Choices):
        return value in dimension.values
    if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    n_steps = (value - dimension.low) / dimension.step if dimension.step else 0
    return abs(n_steps - round(n_steps)) < 1e-9


def grid_values(name: str, dimension: Dimension) -> Sequence[Value]:
    """All values of a dimension, in order; raises InvalidSpace if there are too many."""
    if isinstance(dimension, Choices):
        return dimension.values
    step = dimension.step or (1 if is_integer(name) and not dimension.log else None)
    if step is None:
        raise InvalidSpace(name, "needs a step or choices in a grid: a range has too many values")
    n_values = round((dimension.high - dimension.low) / step) + 1
    if n_values > _MAX_VALUES:
        raise InvalidSpace(name, f"has {n_values} values; a grid takes up to {_MAX_VALUES}: give a larger step")
    values = (dimension.low + number * step for number in range(n_values))
    return tuple(value if is_integer(name) else round(value, 12) for value in values)


def is_integer(name: str) -> bool:
    """Whether this hyperparameter takes integers only."""
    return not (name == LOSS or name.startswith(LOSS_PARAMETER)) and str(_field(name).type).startswith("int")


class _Check:
    """Says whether a value is allowed for a name, depending on the losses that are tried."""

    def __init__(self, name: str, base: Recipe, losses: Sequence[Any]) -> None:
        self.name = name
        self._bases = [base]
        self.is_ordered = name.startswith(LOSS_PARAMETER)
        """Whether there are values between two values."""
        if self.is_ordered:
            self._bases = [base.with_values({LOSS: loss}) for loss in _losses_with(name, base, losses)]
        elif name != LOSS:
            self.is_ordered = "low" in _field(name).metadata

    def __call__(self, value: Any) -> None:
        """Raises InvalidSpace."""
        if self.name == LOSS and not isinstance(value, str):
            raise InvalidSpace(LOSS, f"must be a name or an expression, not {value!r}")
        try:
            for base in self._bases:
                base.with_values({self.name: value})
        except InvalidHyperparameter as invalid:
            raise InvalidSpace(self.name, f"must be {invalid.allowed}, not {value!r}") from invalid
        except InvalidLoss as invalid:
            raise InvalidSpace(self.name, str(invalid)) from invalid


def _losses_with(name: str, base: Recipe, losses: Sequence[Any]) -> list[str]:
    """The losses that name this parameter."""
    parameters = {loss: _parameters_of(base, loss) for loss in losses if isinstance(loss, str)}
    naming = [loss for loss in parameters if name.removeprefix(LOSS_PARAMETER) in parameters[loss]]
    if not naming:
        known = sorted(set().union(*parameters.values()))
        names = f"they name {', '.join(known)}" if known else "they name none"
        raise InvalidSpace(name, f"is not a parameter of the losses that are tried; {names}")
    return naming


def _parameters_of(base: Recipe, loss_text: str) -> set[str]:
    """Names of the numbers in a loss; none for an invalid loss, which `_Check` refuses under the name `loss`."""
    try:
        loss = base.with_values({LOSS: loss_text}).loss
    except InvalidLoss:
        return set()
    return words_of(loss.error, loss.penalty) & {name for name, _ in loss.parameters}


def _field(name: str) -> dataclasses.Field[Any]:
    fields = {field.name: field for field in dataclasses.fields(Hyperparameters)}
    if name == "holdout_fraction":
        raise InvalidSpace(name, "cannot be searched: it determines what trials are evaluated on")
    if name not in fields:
        known = ", ".join([*sorted(fields.keys() - {"holdout_fraction"}), LOSS, f"{LOSS_PARAMETER}NAME"])
        raise InvalidSpace(name, f"is not a hyperparameter; they are {known}")
    return fields[name]


def _dimension(name: str, definition: Mapping[str, Any], check: _Check) -> Dimension:
    present = {key: value for key, value in definition.items() if value is not None}
    if present.keys() == {"choices"}:
        return _choices(name, present["choices"], check)
    if not {"low", "high"} <= present.keys() <= {"low", "high", "log", "step"}:
        raise InvalidSpace(name, "needs either low and high, perhaps with log or step, or choices")
    if not check.is_ordered:
        raise InvalidSpace(name, "is not ordered: use choices")
    return _range(name, check, **present)


def _choices(name: str, values: Sequence[Any], check: _Check) -> Choices:
    if not 1 <= len(values) <= _MAX_VALUES:
        raise InvalidSpace(name, f"needs from 1 to {_MAX_VALUES} choices, not {len(values)}")
    for value in values:
        check(value)
    if len(set(values)) < len(values):
        raise InvalidSpace(name, "contains a choice twice")
    return Choices(tuple(values))


def _range(name: str, check: _Check, low: Any, high: Any, log: bool = False, step: Any = None) -> Range:
    check(low)
    check(high)
    if low >= high:
        raise InvalidSpace(name, f"low must be below high, not {low!r} and {high!r}")
    if log and low <= 0:
        raise InvalidSpace(name, f"low must be above 0 on a logarithmic scale, not {low!r}")
    if log and step is not None:
        raise InvalidSpace(name, "takes log or step, not both")
    if step is None:
        return Range(low, high, log)
    kind = "whole number" if is_integer(name) else "number"
    if not 0 < step <= high - low or (is_integer(name) and not isinstance(step, int)):
        raise InvalidSpace(name, f"step must be a {kind} above 0 and at most high - low, not {step!r}")
    n_steps = math.floor((high - low) / step + 1e-9)
    return Range(low, round(low + n_steps * step, 12), log, step)
