"""Waits for a search in the foreground: `palate tune`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Unpack

from app.db.engine import DATABASE_IS_AWAY, Database
from app.engine.search.trials import Trial
from app.errors import Conflict
from app.periodic_thread import PeriodicThread
from app.settings import Settings
from app.training.models import FINISHED
from app.training.wait_for_run import Hooks, Work, wait_for_run
from app.tuning import store
from app.tuning.store import SearchRun, SearchSpec

_POLL_INTERVAL = 0.25


class FinishedSearch(Conflict):
    """A search that has ended cannot continue."""

    def __init__(self, search_id: int, status: str) -> None:
        super().__init__(f"search {search_id} has already ended: {status}")
        self.search_id = search_id
        self.status = status


def enqueue(database: Database, spec: SearchSpec) -> SearchRun:
    """Queue a search; raises InvalidSpace."""
    with database.write() as connection:
        return store.enqueue(connection, "cli", spec, database.now(connection))


def get_unfinished(database: Database, search_id: int) -> SearchRun:
    """A search that can continue; raises UnknownSearch or FinishedSearch."""
    with database.read() as connection:
        search = store.get(connection, search_id)
    if search.status in FINISHED:
        raise FinishedSearch(search_id, search.status)
    return search


def wait_for_search(
    database: Database,
    settings: Settings,
    search: SearchRun,
    work: Work,
    *,
    on_trials: Callable[[Sequence[Trial]], None] | None = None,
    **hooks: Unpack[Hooks],
) -> tuple[SearchRun, list[Trial]]:
    """Wait until a search has ended, and return it with its trials.

    This process takes part as one more trainer: `work` does the runs that it claims. `on_trials` receives all trials
    whenever there are new ones, this process's or another's; `on_epoch` the epochs of the training that publishes the
    best.
    """
    n_reported = -1

    def poll() -> None:
        nonlocal n_reported
        with suppress(*DATABASE_IS_AWAY), database.read() as connection:
            trials = store.trials_of(connection, search.id)
            if on_trials and len(trials) > n_reported:
                on_trials(trials)
                n_reported = len(trials)

    thread = PeriodicThread(poll, _POLL_INTERVAL, "trials")
    thread.start()
    try:
        wait_for_run(database, settings, search, work=work, **hooks)
    finally:
        thread.stop()
    poll()
    with database.read() as connection:
        return store.get(connection, search.id), store.trials_of(connection, search.id)
