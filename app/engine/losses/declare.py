"""Builds a valid `Loss` from what a person writes."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from app.engine.losses import grammar
from app.engine.losses.base import LINKS, Loss
from app.engine.losses.catalog import BY_NAME, PENALTIES
from app.engine.losses.grammar import InvalidLoss, names_in

_MAX_PARAMETERS = 10


def declare(
    error: str = "squared",
    *,
    penalty: str = "l2",
    link: str | None = None,
    parameters: Mapping[str, float] | None = None,
    rating_range: tuple[float, float] | None = None,
) -> Loss:
    """The loss of a name in the catalog, or of an expression in r and r_hat; raises InvalidLoss.

    link: that of the catalog's loss, or identity. parameters: numbers by name; each must be used by a text.
    """
    values = dict(parameters or {})
    _refuse_unknown_word(error, {*BY_NAME, *grammar.ERROR_NAMES, *grammar.RANGE_NAMES, *values}, "loss", BY_NAME)
    _refuse_unknown_word(penalty, {*PENALTIES, *grammar.PENALTY_NAMES, *values}, "penalty", PENALTIES)
    entry = BY_NAME.get(error)
    penalty_text, defaults = PENALTIES.get(penalty, (penalty, {}))
    chosen = link or (entry.link if entry else "identity")
    if chosen not in LINKS:
        raise InvalidLoss(chosen, 0, f"the link {chosen[:40]!a} is not known", f"there are {', '.join(LINKS)}")
    _refuse_unusable(values)
    numbers = {**(entry.parameters if entry else {}), **defaults, **values}
    loss = Loss(
        name=entry.name if entry else "declared",
        error=entry.error if entry else error,
        penalty=penalty_text,
        link=chosen,
        parameters=tuple(sorted(numbers.items())),
        rating_range=_ends(rating_range),
    )
    _refuse_inconsistent(loss, values)
    if chosen != "sigmoid" and words_of(loss.error, loss.penalty).isdisjoint(grammar.RANGE_NAMES):
        loss = loss.replace(rating_range=None)  # not part of this loss
    elif loss.rating_range is None:
        raise InvalidLoss(loss.error, 0, "this loss needs a rating range", "pass rating_range=(low, high)")
    return loss


def error_tree(loss: Loss) -> grammar.Node:
    """The tree of the error term, every named number in its place; without a range, any ends will do to parse it."""
    return grammar.parse(loss.error, grammar.ERROR_NAMES, {"low": 0.0, "high": 1.0, **loss.names})


def penalty_tree(loss: Loss) -> grammar.Node:
    """The tree of the penalty term."""
    return grammar.parse(loss.penalty, grammar.PENALTY_NAMES, dict(loss.parameters))


def words_of(*texts: str) -> set[str]:
    """Every name in these texts: parameters, functions and variables."""
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", " ".join(texts)))


def _refuse_unknown_word(text: str, known: Collection[str], what: str, listed: Collection[str]) -> None:
    """A single word is most likely a misspelt name of the catalog."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,39}", text) and text not in known:
        raise InvalidLoss(text, 0, f"the {what} {text} is not known", f"there are {', '.join(listed)}, and expressions")


def _refuse_inconsistent(loss: Loss, parameters: Mapping[str, float]) -> None:
    if "r_hat" not in names_in(error_tree(loss)):
        raise InvalidLoss(loss.error, 0, "the error does not depend on r_hat", "for example (r - r_hat)**2 / 2")
    used = names_in(penalty_tree(loss))
    if "theta" in used and len(used) > 1:
        advice = "write it in theta alone, or in p, q, b_u and b_i"
        raise InvalidLoss(loss.penalty, 0, "a penalty cannot mix theta with other names", advice)
    for name in parameters:
        if name not in words_of(loss.error, loss.penalty):
            raise InvalidLoss(name, 0, f"the parameter {name} is not used", f"the error is {loss.error}")


def _refuse_unusable(parameters: Mapping[str, float]) -> None:
    reserved = {*grammar.FUNCTIONS, *grammar.ERROR_NAMES, *grammar.PENALTY_NAMES, *grammar.RANGE_NAMES, "and", "or"}
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidLoss("", 0, f"there are {len(parameters)} parameters", f"at most {_MAX_PARAMETERS}")
    for name, value in parameters.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or "__" in name or name in reserved:
            raise InvalidLoss(name, 0, f"the parameter name {name[:40]!a} cannot be used", "use only a-z, 0-9 and _")
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_usable(value):
            raise InvalidLoss(name, 0, f"the parameter {name} must be a number", f"at most {grammar.MAX_NUMBER:g}")


def _is_usable(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= grammar.MAX_NUMBER


def _ends(rating_range: tuple[float, float] | None) -> tuple[float, float] | None:
    if rating_range is None:
        return None
    low, high = map(float, rating_range)
    if not (_is_usable(low) and _is_usable(high) and low < high):
        raise InvalidLoss("", 0, f"the rating range ({low:g}, {high:g}) is empty")
    return low, high
