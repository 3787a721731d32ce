"""What a fit minimises and how, as one thing: values by name, as a search tries them, go into it."""

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
PARAMETER = "loss."
"""What the name of a loss's number begins with: `loss.delta`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters and loss of a fit. `rating_range` is what a loss that is put in later may need."""

    hyperparameters: Hyperparameters
    loss: Loss = SQUARED
    rating_range: tuple[float, float] | None = None

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """The recipe with n_factors=8, loss="huber", loss.delta=0.5 and the like in their places.

        Numbers that the loss does not name are left out. Raises InvalidHyperparameter or InvalidLoss.
        """
        of_loss = {name: value for name, value in values.items() if name == LOSS or name.startswith(PARAMETER)}
        others = {name: value for name, value in values.items() if name not in of_loss}
        numbers = {name.removeprefix(PARAMETER): value for name, value in of_loss.items() if name != LOSS}
        loss = self._loss_with(of_loss.get(LOSS, self.told_loss), numbers) if of_loss else self.loss
        return dataclasses.replace(self, hyperparameters=self.hyperparameters.replace(**others), loss=loss)

    @property
    def told_loss(self) -> str:
        """The error term as somebody would ask for it: its name, or its text."""
        return self.loss.name if self.loss.name in BY_NAME else self.loss.error

    def value_of(self, name: str) -> Value:
        """The value of this name; None for a number that the loss does not name."""
        if name == LOSS:
            return self.told_loss
        if name.startswith(PARAMETER):
            return dict(self.loss.parameters).get(name.removeprefix(PARAMETER))
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
        ends = mapping["rating_range"]
        chosen = Hyperparameters.from_dict(mapping["hyperparameters"])
        return cls(chosen, Loss.from_dict(mapping["loss"]), (float(ends[0]), float(ends[1])) if ends else None)

    def _loss_with(self, error: str, numbers: Mapping[str, float]) -> Loss:
        """Another error term comes with its own link and numbers; the penalty stays, with its numbers."""
        is_same = error == self.told_loss
        words = words_of(BY_NAME[error].error if error in BY_NAME else error, self.loss.penalty)
        given = {name: value for name, value in numbers.items() if name in words}
        if is_same and not given:
            return self.loss
        words = words_of(self.loss.error if is_same else "", self.loss.penalty)
        kept = {name: value for name, value in self.loss.parameters if name in words}
        return declare(
            error,
            penalty=self.loss.penalty,
            link=self.loss.link if is_same else None,
            parameters={**kept, **given},
            rating_range=self.rating_range or self.loss.rating_range,
        )
