"""Searches on small worlds, and ways to look at what they left."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.db.engine import Database
from app.engine.hyperparameters import Hyperparameters
from app.engine.recipe import Recipe
from app.engine.search.trials import Trial
from app.settings import Settings
from app.tuning import store
from app.tuning.store import SearchRun, SearchSpec
from app.tuning.study import execute
from tests.training.world import QUICK, claim

SPACE = {
    "learning_rate": {"low": 0.01, "high": 0.5, "log": True},
    "n_factors": {"choices": [2, 4, 8]},
    "regularization": {"low": 0.01, "high": 0.5},
}
GRID = {"n_factors": {"choices": [2, 4]}, "n_epochs": {"low": 4, "high": 8, "step": 4}}
RECIPE = Recipe(QUICK, rating_range=(0.5, 5.0))


def spec(space: dict[str, Any] | None = None, **how: Any) -> SearchSpec:
    base, defaults = (how.pop(name, RECIPE) for name in ("base", "defaults"))
    return SearchSpec(space=space or SPACE, base=_recipe(base), defaults=_recipe(defaults), **how)


def enqueue(database: Database, request: SearchSpec) -> SearchRun:
    with database.write() as connection:
        return store.enqueue(connection, "api", request, database.now(connection))


def search(database: Database, settings: Settings, request: SearchSpec) -> SearchRun:
    """One search from the request to its outcome, in this thread."""
    row = enqueue(database, request)
    execute(database, settings, claim(database, settings), is_stopping=lambda: False)
    return search_of(database, row.id)


def search_of(database: Database, search_id: int) -> SearchRun:
    with database.read() as connection:
        return store.get(connection, search_id)


def trials_of(database: Database, search_id: int) -> list[Trial]:
    with database.read() as connection:
        return store.trials_of(connection, search_id)


def results(trials: list[Trial]) -> list[tuple[Any, ...]]:
    """All of the trials except their seconds."""
    return [(each.number, each.parameters, each.status, each.value, each.curve, each.error) for each in trials]


def _recipe(base: Recipe | Hyperparameters) -> Recipe:
    return base if isinstance(base, Recipe) else dataclasses.replace(RECIPE, hyperparameters=base)
