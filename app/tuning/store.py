"""Searches and their trials as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from app.db.paging import newest
from app.engine.hyperparameters import Hyperparameters
from app.engine.recipe import Recipe
from app.engine.search.space import parse_space
from app.engine.search.trials import Pruning, Search, Strategy, Trial, best_of
from app.errors import NotFound
from app.training import queue
from app.training.models import RequestedBy, TrainingRun
from app.tuning.models import SearchRow, SearchTrial

SearchRun = Row[Any]
"""The columns of TrainingRun and of SearchRow."""

_STORED_UNCHANGED = ("strategy", "seed", "n_folds", "pruning", "publish")


class UnknownSearch(NotFound):
    """No search has this number."""

    def __init__(self, search_id: int) -> None:
        super().__init__(f"search {search_id} does not exist")
        self.search_id = search_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """What a search shall do. `space` is as `parse_space` takes it; `base` has the values that all trials share."""

    space: Mapping[str, Mapping[str, Any]]
    base: Recipe
    defaults: Recipe
    """The recipe of the settings."""
    strategy: Strategy = "tpe"
    n_trials: int = 40
    seed: int = 0
    n_folds: int = 3
    pruning: Pruning = "median"
    publish: bool = False

    def search(self) -> Search:
        """Raises InvalidSpace."""
        shared = {name: getattr(self, name) for name in ("strategy", "n_trials", "seed", "pruning")}
        return Search(space=parse_space(self.space, self.base), **shared)


def enqueue(connection: Connection, requested_by: RequestedBy, spec: SearchSpec, now: datetime) -> SearchRun:
    """Queue a search; raises InvalidSpace."""
    n_planned = spec.search().n_planned
    run = queue.enqueue(connection, requested_by, spec.base.hyperparameters, now, spec.base.loss, kind="search")
    row = {
        "run_id": run.id,
        "space": dict(spec.space),
        "n_trials": n_planned,
        "defaults": spec.defaults.to_dict(),
        **{name: getattr(spec, name) for name in _STORED_UNCHANGED},
    }
    connection.execute(insert(SearchRow).values(row))
    return get(connection, run.id)


def get(connection: Connection, search_id: int) -> SearchRun:
    """Raises UnknownSearch."""
    row = connection.execute(_searches().where(SearchRow.run_id == search_id)).one_or_none()
    if row is None:
        raise UnknownSearch(search_id)
    return row


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[SearchRun]:
    """Searches from the newest to the oldest, at most `limit`, all older than `before`."""
    return newest(connection, _searches(), SearchRow.run_id, limit, before)


def spec_of(row: SearchRun) -> SearchSpec:
    """What the search was requested to do; `n_trials` is that of its grid if that is smaller."""
    stored = {name: row._mapping[name] for name in ("space", "n_trials", *_STORED_UNCHANGED)}
    return SearchSpec(base=base_of(row), defaults=Recipe.from_dict(row.defaults), **stored)


def base_of(row: SearchRun) -> Recipe:
    """The values that all trials share."""
    rating_range = Recipe.from_dict(row.defaults).rating_range
    return Recipe(Hyperparameters.from_dict(row.hyperparameters), queue.loss_of(row), rating_range)


def trials_of(connection: Connection, search_id: int) -> list[Trial]:
    """The trials that have ended, in order."""
    statement = select(SearchTrial.__table__).where(SearchTrial.search_id == search_id).order_by(SearchTrial.number)
    return [
        Trial(row.number, row.parameters, row.status, row.value, row.seconds, tuple(row.curve), row.error)
        for row in connection.execute(statement)
    ]


def record_trial(connection: Connection, search_id: int, trial: Trial, trained_through: int, now: datetime) -> None:
    """Store a trial; call it in a transaction that has verified the lease.

    Storing it again changes nothing: a caller that lost the connection cannot know whether it was stored.
    """
    existing = select(SearchTrial.number).where(SearchTrial.search_id == search_id, SearchTrial.number == trial.number)
    if connection.execute(existing).first() is None:
        row = {"search_id": search_id, "trained_through": trained_through, "finished_at": now, **asdict(trial)}
        connection.execute(insert(SearchTrial).values(row))


def published_recipe(connection: Connection, defaults: Recipe) -> Recipe | None:
    """The best recipe of the newest published search; None if the settings have changed since it was requested."""
    published = _searches().where(TrainingRun.status == "succeeded", SearchRow.publish)
    row = connection.execute(published.order_by(SearchRow.run_id.desc()).limit(1)).one_or_none()
    if row is None or row.defaults != defaults.to_dict():
        return None
    best = best_of(trials_of(connection, row.run_id))
    return base_of(row).with_values(best.parameters) if best else None


def _searches() -> Any:
    return select(TrainingRun.__table__, SearchRow.__table__).join(SearchRow, SearchRow.run_id == TrainingRun.id)
