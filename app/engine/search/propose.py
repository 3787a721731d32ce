"""What the next trial of a search tries."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from app.engine.recipe import LOSS_PARAMETER, Recipe
from app.engine.search.optuna_study import distributions, sampling_study
from app.engine.search.space import Choices, Space, contains, grid_values
from app.engine.search.trials import Parameters, Search, Trial


def propose(search: Search, base: Recipe, trials: Sequence[Trial]) -> Parameters | None:
    """What the next trial tries, after these; None when the search is complete.

    Random and TPE searches try the values of `base` first if the space contains them, so that the best trial is never
    worse.
    """
    number = len(trials)
    if number >= search.n_planned:
        return None
    if search.strategy == "grid":
        points = itertools.product(*itertools.starmap(grid_values, search.space.items()))  # the last changes first
        return dict(zip(search.space, next(itertools.islice(points, number, None)), strict=True))
    current = _current_values(search.space, base)
    if number == 0 and all(contains(dimension, current[name]) for name, dimension in search.space.items()):
        return current
    sampled = sampling_study(search, number, trials).ask(distributions(search)).params
    return {name: sampled[name] for name in search.space}


def _current_values(space: Space, base: Recipe) -> Parameters:
    """The values of the base; for a number that its loss does not name, any value of the space."""
    values = {name: base.value_of(name) for name in space}
    for name, dimension in space.items():
        if values[name] is None and name.startswith(LOSS_PARAMETER):
            values[name] = dimension.values[0] if isinstance(dimension, Choices) else dimension.low
    return values
