"""What a fit minimizes and how, as one thing; a search puts values into it by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.catalog import BY_NAME, SQUARED
from app.engine.losses.declare import declare, words_of

Value = int | float | str | None
LOSS = "loss"
LOSS_PARAMETER = "loss."
"""Prefix of the name of a number in a loss: `loss.delta`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters and loss of a fit. `rating_range` is for losses put in later that need one."""

    hyperparameters: Hyperparameters
    loss: Loss = SQUARED
    rating_range: tuple[float, float] | None = None

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The recipe with values such as n_factors=8, loss="huber" or loss.delta=0.5.

        Numbers that the loss does not name are ignored. Raises InvalidHyperparameter or InvalidLoss.
        """
        numbers = {name.removeprefix(LOSS_PARAMETER): value for name, value in values.items() if "." in name}
        hyperparameters = {name: value for name, value in values.items() if name != LOSS and "." not in name}
        loss = self._loss_with(values.get(LOSS, self.loss_text), numbers) if numbers or LOSS in values else self.loss
        return dataclasses.replace(self, hyperparameters=self.hyperparameters.replace(**hyperparameters), loss=loss)

    @property
    def loss_text(self) -> str:
        """The error term as a user would write it: its name in the catalog, or its expression."""
        return self.loss.name if self.loss.name in BY_NAME else self.loss.error

    def value_of(self, name: str) -> Value:
        """The value of this name; None for a number that the loss does not name."""
        if name == LOSS:
            return self.loss_text
        if name.startswith(LOSS_PARAMETER):
            return dict(self.loss.parameters).get(name.removeprefix(LOSS_PARAMETER))
        return getattr(self.hyperparameters, name)  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """Plain names and numbers, ready for JSON."""
        return {
            "hyperparameters": self.hyperparameters.to_dict(),
            "loss": self.loss.to_dict(),
            "rating_range": list(self.rating_range) if self.rating_range else None,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        limits = mapping["rating_range"]
        hyperparameters = Hyperparameters.from_dict(mapping["hyperparameters"])
        loss = Loss.from_dict(mapping["loss"])
        return cls(hyperparameters, loss, (float(limits[0]), float(limits[1])) if limits else None)

    def _loss_with(self, error: str, numbers: Mapping[str, float]) -> Loss:
        """Another error term brings its own link and numbers; the penalty stays, with its numbers."""
        is_same = error == self.loss_text
        words = words_of(BY_NAME[error].error if error in BY_NAME else error, self.loss.penalty)
        changed = {name: value for name, value in numbers.items() if name in words}
        if is_same and not changed:
            return self.loss
        words = words_of(self.loss.error if is_same else "", self.loss.penalty)
        unchanged = {name: value for name, value in self.loss.parameters if name in words}
        return declare(
            error,
            penalty=self.loss.penalty,
            link=self.loss.link if is_same else None,
            parameters={**unchanged, **changed},
            rating_range=self.rating_range or self.loss.rating_range,
        )
