from collections.abc import Sequence

import pytest

from app.db.engine import Database
from app.engine.search.trials import Trial
from app.settings import Settings
from app.tuning.store import UnknownSearch
from app.tuning.wait_for_search import FinishedSearch, enqueue, get_unfinished, wait_for_search
from app.worker import execute
from tests.training.world import claim, fill, run_of
from tests.training.world import enqueue as enqueue_training
from tests.tuning.world import GRID, search_of, spec, trials_of


def test_a_search_runs_to_its_end_and_its_trials_are_reported(database: Database, settings: Settings) -> None:
    fill(database)
    counts: list[int] = []
    row = enqueue(database, spec(GRID, strategy="grid"))
    search, trials = wait_for_search(database, settings, row, execute, on_trials=lambda seen: counts.append(len(seen)))
    assert (search.status, search.requested_by, len(trials)) == ("succeeded", "cli", 4)
    assert counts[-1] == 4
    assert sorted(counts) == counts


def test_a_waiting_training_is_done_in_between(database: Database, settings: Settings) -> None:
    fill(database)
    row = enqueue(database, spec(n_trials=3))
    training = enqueue_training(database)
    search, trials = wait_for_search(database, settings, row, execute)
    assert run_of(database, training.id).status == search.status == "succeeded"
    assert len(trials) == 3


def test_giving_up_cancels_the_search_and_keeps_its_trials(database: Database, settings: Settings) -> None:
    fill(database)
    row = enqueue(database, spec(n_trials=1000, strategy="random"))

    def has_seen_enough() -> bool:
        return len(trials_of(database, row.id)) >= 2

    search, trials = wait_for_search(database, settings, row, execute, is_cancelled=has_seen_enough)
    assert search.status == "cancelled"
    assert 2 <= len(trials) < 1000


def test_trials_of_another_trainer_are_reported_too(database: Database, settings: Settings) -> None:
    fill(database)
    row = enqueue(database, spec(GRID, strategy="grid"))
    held = claim(database, settings)
    reported: list[Sequence[Trial]] = []
    waits: list[str] = []

    def work_as_the_other(message: str) -> None:
        waits.append(message)
        execute(database, settings, held, is_stopping=lambda: False)

    search, trials = wait_for_search(
        database, settings, row, execute, on_trials=reported.append, on_wait=work_as_the_other
    )
    assert waits == ["another trainer (me) is working on this run"]
    assert search.status == "succeeded"
    assert list(reported[-1]) == trials


def test_only_a_search_that_has_not_ended_can_continue(database: Database, settings: Settings) -> None:
    fill(database)
    row = enqueue(database, spec(GRID, strategy="grid"))
    assert get_unfinished(database, row.id).status == "queued"
    wait_for_search(database, settings, row, execute)
    with pytest.raises(FinishedSearch, match="has already ended: succeeded"):
        get_unfinished(database, row.id)
    with pytest.raises(UnknownSearch):
        get_unfinished(database, row.id + 1)


def test_a_search_is_never_taken_for_a_training(database: Database, settings: Settings) -> None:
    from app.training import run

    fill(database)
    row = enqueue(database, spec())
    held = claim(database, settings)
    with pytest.raises(AssertionError):
        run.execute(database, settings, held, is_stopping=lambda: False)
    assert search_of(database, row.id).status == "running"
