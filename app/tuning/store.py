"""Searches and their trials as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select

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


class UnknownSearch(NotFound):
    """No search has this number."""

    def __init__(self, search_id: int) -> None:
        super().__init__(f"search {search_id} does not exist")
        self.search_id = search_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A search that somebody asks for. `space` is as `parse_space` takes it; `base` is what all trials share."""

    space: Mapping[str, Mapping[str, Any]]
    base: Recipe
    defaults: Recipe
    """What the settings say."""
    strategy: Strategy = "tpe"
    n_trials: int = 40
    seed: int = 0
    n_folds: int = 3
    pruning: Pruning = "median"
    publish: bool = False

    def search(self) -> Search:
        """Raises InvalidSpace."""
        return Search(
            space=parse_space(self.space, self.base),
            strategy=self.strategy,
            n_trials=self.n_trials,
            seed=self.seed,
            pruning=self.pruning,
        )


def enqueue(connection: Connection, requested_by: RequestedBy, wanted: Wanted, now: datetime) -> SearchRun:
    """Ask for a search; raises InvalidSpace."""
    n_planned = wanted.search().n_planned
    run = queue.enqueue(connection, requested_by, wanted.base.hyperparameters, now, wanted.base.loss, kind="search")
    facts = {"strategy": wanted.strategy, "n_trials": n_planned, "seed": wanted.seed, "n_folds": wanted.n_folds}
    how = {"pruning": wanted.pruning, "publish": wanted.publish, "defaults": wanted.defaults.to_dict()}
    connection.execute(insert(SearchRow).values(run_id=run.id, space=dict(wanted.space), **facts, **how))
    return get(connection, run.id)


def get(connection: Connection, search_id: int) -> SearchRun:
    """Raises UnknownSearch."""
    row = connection.execute(_searches().where(SearchRow.run_id == search_id)).one_or_none()
    if row is None:
        raise UnknownSearch(search_id)
    return row


def history(connection: Connection, *, limit: int, before: int | None = None) -> list[SearchRun]:
    """Searches from the newest to the oldest, at most `limit`, all older than `before`."""
    statement = _searches().order_by(SearchRow.run_id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(SearchRow.run_id < before)
    return list(connection.execute(statement))


def wanted_of(row: SearchRun) -> Wanted:
    """What was asked for."""
    return Wanted(
        space=row.space,
        base=base_of(row),
        defaults=Recipe.from_dict(row.defaults),
        strategy=row.strategy,
        n_trials=row.n_trials,
        seed=row.seed,
        n_folds=row.n_folds,
        pruning=row.pruning,
        publish=row.publish,
    )


def base_of(row: SearchRun) -> Recipe:
    """What all trials share."""
    ends = Recipe.from_dict(row.defaults).rating_range
    return Recipe(Hyperparameters.from_dict(row.hyperparameters), queue.loss_of(row), ends)


def trials_of(connection: Connection, search_id: int) -> list[Trial]:
    """The trials that have ended, in order."""
    statement = select(SearchTrial.__table__).where(SearchTrial.search_id == search_id).order_by(SearchTrial.number)
    return [_trial(row) for row in connection.execute(statement)]


def count_trials(connection: Connection, search_id: int) -> int:
    """How many trials have ended."""
    statement = select(func.count()).select_from(SearchTrial).where(SearchTrial.search_id == search_id)
    return connection.execute(statement).scalar_one()


def record_trial(connection: Connection, search_id: int, trial: Trial, trained_through: int, now: datetime) -> None:
    """Write a trial down; call it in a transaction that has found the lease to be ours.

    Writing it again changes nothing, for a caller who lost the connection and cannot know whether it was done.
    """
    is_there = select(SearchTrial.number).where(SearchTrial.search_id == search_id, SearchTrial.number == trial.number)
    if connection.execute(is_there).first() is None:
        connection.execute(insert(SearchTrial).values(_values(search_id, trial, trained_through, now)))


def standing_choice(connection: Connection, defaults: Recipe) -> Recipe | None:
    """What the newest published search found best, as long as the settings are those that it was asked under."""
    published = _searches().where(TrainingRun.status == "succeeded", SearchRow.publish)
    row = connection.execute(published.order_by(SearchRow.run_id.desc()).limit(1)).one_or_none()
    if row is None or row.defaults != defaults.to_dict():
        return None
    best = best_of(trials_of(connection, row.run_id))
    return base_of(row).with_values(best.parameters) if best else None


def _searches() -> Any:
    return select(TrainingRun.__table__, SearchRow.__table__).join(SearchRow, SearchRow.run_id == TrainingRun.id)


def _trial(row: Row[Any]) -> Trial:
    what = row.number, row.parameters, row.status
    return Trial(*what, row.value, row.seconds, tuple(row.curve), row.error)


def _values(search_id: int, trial: Trial, trained_through: int, now: datetime) -> dict[str, Any]:
    return {
        "search_id": search_id,
        "number": trial.number,
        "parameters": trial.parameters,
        "status": trial.status,
        "value": trial.value,
        "seconds": trial.seconds,
        "curve": list(trial.curve),
        "error": trial.error,
        "trained_through": trained_through,
        "finished_at": now,
    }
