import threading

from app.db.engine import Database
from app.settings import Settings
from app.training import queue
from app.training.queue import Epoch
from app.training.run import execute
from app.training.wait_for_run import train_now
from tests.training.world import ENDLESS, QUICK, active, claim, enqueue, epochs_of, fill, run_of, wait_until


def test_the_finished_run_is_returned(database: Database, settings: Settings) -> None:
    fill(database)
    seen: list[Epoch] = []
    run = train_now(database, settings, QUICK, on_epoch=seen.append)
    assert (run.status, run.requested_by, run.version) == ("succeeded", "cli", active(database))
    assert {epoch.phase for epoch in seen} == {"fit", "final"}


def test_runs_that_were_queued_before_come_first(database: Database, settings: Settings) -> None:
    fill(database)
    before = enqueue(database)
    told: list[str] = []
    run = train_now(database, settings, QUICK, on_wait=told.append)
    assert run_of(database, before.id).status == run.status == "succeeded"
    assert told == [f"run {before.id} was queued before this one: training it first"]


def test_another_trainer_is_waited_for(database: Database, settings: Settings) -> None:
    fill(database)
    before = enqueue(database)
    held = claim(database, settings, "somebody")
    told: list[str] = []

    def let_go(message: str) -> None:
        told.append(message)
        with database.write() as connection:
            queue.finish(connection, held, "failed", database.now(connection))

    assert train_now(database, settings, QUICK, on_wait=let_go).status == "succeeded"
    assert told == [f"waiting for run {before.id}, which another trainer (somebody) is working on"]


def test_epochs_that_another_trainer_records_are_reported(database: Database, settings: Settings) -> None:
    fill(database)
    before = enqueue(database)
    held = claim(database, settings, "somebody")
    seen: list[Epoch] = []
    told: list[str] = []

    def work_as_the_other(message: str) -> None:
        told.append(message)
        if len(told) > 1:
            return
        with database.write() as connection:
            queue.finish(connection, held, "failed", database.now(connection))
            mine = queue.claim(connection, "somebody", settings.training.lease, database.now(connection))
        assert mine is not None
        assert mine.run_id != before.id
        execute(database, settings, mine, is_stopping=lambda: False)

    run = train_now(database, settings, QUICK, on_epoch=seen.append, on_wait=work_as_the_other)
    assert run.status == "succeeded"
    assert [(epoch.phase, epoch.report.epoch) for epoch in seen] == epochs_of(database, run.id)


def test_cancelling_the_wait_cancels_the_run(database: Database, settings: Settings) -> None:
    fill(database)
    stop = threading.Event()
    finished = []
    waiter = threading.Thread(
        target=lambda: finished.append(train_now(database, settings, ENDLESS, is_cancelled=stop.is_set))
    )
    waiter.start()

    def is_running() -> bool:
        with database.read() as connection:
            return queue.running(connection) is not None

    wait_until(is_running)
    stop.set()
    waiter.join()
    assert finished[0].status == "cancelled"
    assert active(database) is None
