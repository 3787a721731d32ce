"""A space as text: `learning_rate=0.01..0.1:log`, `n_epochs=10..40:step=5`, `loss=squared,huber`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from app.engine.recipe import Value
from app.engine.search.space import InvalidSpace


def read_space(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """As `parse_space` takes it; raises InvalidSpace for other syntax."""
    return dict(_read(text) for text in texts)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    name, equals, definition = text.partition("=")
    if not equals or not name or not definition:
        raise InvalidSpace(text, "write NAME=LOW..HIGH, NAME=LOW..HIGH:log, NAME=LOW..HIGH:step=STEP or NAME=A,B,C")
    span, colon, option = definition.partition(":")
    low, dots, high = span.partition("..")
    if not dots:
        return name, {"choices": [_value(choice) for choice in _split(definition)]}
    limits = {"low": _number(name, low), "high": _number(name, high)}
    if not colon:
        return name, limits
    if option == "log":
        return name, {**limits, "log": True}
    if option.startswith("step="):
        return name, {**limits, "step": _number(name, option.removeprefix("step="))}
    raise InvalidSpace(name, f"a range takes :log or :step=STEP, not :{option}")


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets, so that a choice may be an expression."""
    choices, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            choices.append("")
        else:
            choices[-1] += character
    return [choice.strip() for choice in choices]


def _value(text: str) -> Value:
    """A number or None if the text is one in JSON, otherwise the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or type(value) in {int, float} else text


def _number(name: str, text: str) -> int | float:
    value = _value(text)
    if not isinstance(value, int | float):
        raise InvalidSpace(name, f"{text!r} is not a number")
    return value
