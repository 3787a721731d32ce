from collections.abc import Sequence

import pytest

from app.db.engine import Database
from app.engine.search.trials import Trial
from app.settings import Settings
from app.tuning.store import UnknownSearch
from app.tuning.wait_for_search import FinishedSearch, ask, tune_now, unfinished
from app.worker import execute
from tests.training.world import claim, enqueue, fill, run_of
from tests.tuning.world import GRID, search_of, trials_of, wanted


def test_a_search_is_seen_through_and_its_trials_are_told(database: Database, settings: Settings) -> None:
    fill(database)
    told: list[int] = []
    asked = ask(database, wanted(GRID, strategy="grid"))
    search, trials = tune_now(database, settings, asked, execute, on_trials=lambda seen: told.append(len(seen)))
    assert (search.status, search.requested_by, len(trials)) == ("succeeded", "cli", 4)
    assert told[-1] == 4
    assert sorted(told) == told


def test_a_training_that_waits_is_done_in_between(database: Database, settings: Settings) -> None:
    fill(database)
    asked = ask(database, wanted(n_trials=3))
    training = enqueue(database)
    search, trials = tune_now(database, settings, asked, execute)
    assert run_of(database, training.id).status == search.status == "succeeded"
    assert len(trials) == 3


def test_whoever_gives_up_cancels_the_search_and_keeps_its_trials(database: Database, settings: Settings) -> None:
    fill(database)
    asked = ask(database, wanted(n_trials=1000, strategy="random"))

    def has_seen_enough() -> bool:
        return len(trials_of(database, asked.id)) >= 2

    search, trials = tune_now(database, settings, asked, execute, is_cancelled=has_seen_enough)
    assert search.status == "cancelled"
    assert 2 <= len(trials) < 1000


def test_trials_that_another_trainer_does_are_told_too(database: Database, settings: Settings) -> None:
    fill(database)
    asked = ask(database, wanted(GRID, strategy="grid"))
    held = claim(database, settings)
    told: list[Sequence[Trial]] = []
    waits: list[str] = []

    def work_as_the_other(message: str) -> None:
        waits.append(message)
        execute(database, settings, held, is_stopping=lambda: False)

    search, trials = tune_now(database, settings, asked, execute, on_trials=told.append, on_wait=work_as_the_other)
    assert waits == ["another trainer (me) is working on this run"]
    assert search.status == "succeeded"
    assert list(told[-1]) == trials


def test_only_a_search_that_has_not_ended_can_go_on(database: Database, settings: Settings) -> None:
    fill(database)
    asked = ask(database, wanted(GRID, strategy="grid"))
    assert unfinished(database, asked.id).status == "queued"
    tune_now(database, settings, asked, execute)
    with pytest.raises(FinishedSearch, match="has already ended: succeeded"):
        unfinished(database, asked.id)
    with pytest.raises(UnknownSearch):
        unfinished(database, asked.id + 1)


def test_a_search_is_never_taken_for_a_training(database: Database, settings: Settings) -> None:
    from app.training import run

    fill(database)
    asked = ask(database, wanted())
    held = claim(database, settings)
    with pytest.raises(AssertionError):
        run.execute(database, settings, held, is_stopping=lambda: False)
    assert search_of(database, asked.id).status == "running"
