"""A search that somebody waits for: `palate tune`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

from app.db.engine import DATABASE_IS_AWAY, Database
from app.engine.search.trials import Trial
from app.errors import Conflict
from app.settings import Settings
from app.training.models import FINISHED
from app.training.wait_for_run import Hooks, Work, wait_for_run
from app.tuning import store
from app.tuning.store import SearchRun, Wanted

_LOOK_INTERVAL = 0.25


class FinishedSearch(Conflict):
    """A search that has ended cannot go on."""

    def __init__(self, search_id: int, status: str) -> None:
        super().__init__(f"search {search_id} has already ended: {status}")
        self.search_id = search_id
        self.status = status


def ask(database: Database, wanted: Wanted) -> SearchRun:
    """Queue a search; raises InvalidSpace."""
    with database.write() as connection:
        return store.enqueue(connection, "cli", wanted, database.now(connection))


def unfinished(database: Database, search_id: int) -> SearchRun:
    """A search that can go on; raises UnknownSearch or FinishedSearch."""
    with database.read() as connection:
        search = store.get(connection, search_id)
    if search.status in FINISHED:
        raise FinishedSearch(search_id, search.status)
    return search


def tune_now(
    database: Database,
    settings: Settings,
    search: SearchRun,
    work: Work,
    *,
    on_trials: Callable[[Sequence[Trial]], None] | None = None,
    **hooks: Unpack[Hooks],
) -> tuple[SearchRun, list[Trial]]:
    """See a search through, whichever trainer works on it; `on_trials` is told all trials whenever there are new ones.

    `on_epoch` is told of the training that follows where the best is to be published.
    """
    with _following(database, search.id, on_trials or (lambda _: None)):
        wait_for_run(database, settings, search, work=work, **hooks)
    with database.read() as connection:
        return store.get(connection, search.id), store.trials_of(connection, search.id)


@contextmanager
def _following(database: Database, search_id: int, tell: Callable[[Sequence[Trial]], None]) -> Iterator[None]:
    """Tells of the trials in the database: of those that this process does, and of those that another one does."""
    has_ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(database, search_id, tell, has_ended), name="trials", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def _follow(
    database: Database, search_id: int, tell: Callable[[Sequence[Trial]], None], has_ended: threading.Event
) -> None:
    n_told, is_last = -1, False
    while not is_last:
        is_last = has_ended.wait(_LOOK_INTERVAL)  # one more look after the end
        try:
            with database.read() as connection:
                trials = store.trials_of(connection, search_id)
        except DATABASE_IS_AWAY:
            continue
        if len(trials) > n_told:
            tell(trials)
            n_told = len(trials)
