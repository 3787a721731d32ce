"""A search and its trials, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.engine.recipe import Value
from app.engine.search.space import Space, grid_values

Strategy = Literal["grid", "random", "tpe"]
Pruning = Literal["none", "median", "halving"]
TrialStatus = Literal["complete", "pruned", "failed"]
Parameters = dict[str, Value]
"""Values by name: hyperparameters, `loss`, and numbers of a loss such as `loss.delta`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of values and its result. A failed trial has no value; `error` says why."""

    number: int
    parameters: Parameters
    status: TrialStatus
    value: float | None
    """Mean over the folds of the lowest hold-out RMSE; of a pruned trial the lowest on the first fold so far."""
    seconds: float
    curve: tuple[float, ...] = ()
    """The lowest hold-out RMSE of the first fold after each tenth of the epochs."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to try. Equal searches on equal ratings do the same trials. Raises InvalidSpace for an endless grid."""

    space: Space
    strategy: Strategy = "tpe"
    n_trials: int = 40
    seed: int = 0
    pruning: Pruning = "median"

    def __post_init__(self) -> None:
        if self.strategy == "grid":
            for name, dimension in self.space.items():
                grid_values(name, dimension)

    @property
    def n_planned(self) -> int:
        """Number of trials: `n_trials`, or the points of the grid if those are fewer."""
        if self.strategy != "grid":
            return self.n_trials
        return min(self.n_trials, math.prod(len(grid_values(*each)) for each in self.space.items()))


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the lowest value, the earliest of equals; None if no trial is complete."""
    complete = [trial for trial in trials if trial.status == "complete"]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)
