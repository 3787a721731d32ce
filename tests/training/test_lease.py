import logging
import math
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import update

from app.db.engine import Database
from app.settings import Settings, Training
from app.training import queue
from app.training.models import TrainingRun
from app.training.queue import Epoch
from app.training.run import execute
from tests.training.world import (
    ENDLESS,
    QUICK,
    claim,
    enqueue,
    epochs_of,
    fill,
    listed,
    run_of,
    wait_until,
)


def test_a_trainer_stops_soon_after_it_lost_its_lease(database: Database, settings: Settings) -> None:
    fill(database)
    run = enqueue(database, ENDLESS)
    held = claim(database, settings, "old")
    seen: list[Epoch] = []

    def lose_the_lease(epoch: Epoch) -> None:
        seen.append(epoch)
        if len(seen) == 1:
            with database.write() as connection:
                connection.execute(update(TrainingRun).values(worker="new", attempt=2))

    execute(database, settings, held, is_stopping=lambda: False, on_epoch=lose_the_lease)
    assert len(seen) < ENDLESS.n_epochs
    assert epochs_of(database, run.id) == []
    assert run_of(database, run.id).worker == "new"


def _execute_in_a_thread(
    database: Database, settings: Settings, is_stopping: Callable[[], bool] = lambda: False
) -> threading.Thread:
    held = claim(database, settings)
    thread = threading.Thread(target=execute, args=(database, settings, held), kwargs={"is_stopping": is_stopping})
    thread.start()
    return thread


def test_a_cancelled_run_ends_while_it_fits(database: Database, settings: Settings) -> None:
    fill(database)
    run = enqueue(database, ENDLESS)
    thread = _execute_in_a_thread(database, settings)
    wait_until(lambda: len(epochs_of(database, run.id)) > 0)
    with database.write() as connection:
        queue.request_cancel(connection, run.id, database.now(connection))
    thread.join()
    row = run_of(database, run.id)
    assert (row.status, row.error, row.version) == ("cancelled", None, None)
    assert len(epochs_of(database, run.id)) < ENDLESS.n_epochs
    assert listed(database) == []


def test_a_run_that_is_interrupted_goes_back_to_the_queue(database: Database, settings: Settings) -> None:
    fill(database)
    run = enqueue(database, ENDLESS)
    stop = threading.Event()
    thread = _execute_in_a_thread(database, settings, stop.is_set)
    wait_until(lambda: len(epochs_of(database, run.id)) > 0)
    stop.set()
    thread.join()
    assert run_of(database, run.id).status == "queued"
    assert epochs_of(database, run.id) == []


def test_a_run_goes_on_while_the_database_is_away(sqlite_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    from app.db.engine import open_database

    settings = sqlite_settings.model_copy(update={"training": Training(lease=1)})
    database = open_database(settings)
    fill(database)
    run = enqueue(database, QUICK.replace(n_epochs=60))
    file, away = settings.data_dir / "palate.db", settings.data_dir / "palate.away"

    def bring_back() -> None:
        wait_until(lambda: "waits" in caplog.text)
        file.rmdir()
        away.rename(file)

    back = threading.Thread(target=bring_back)

    def lose_the_database(epoch: Epoch) -> None:
        if (epoch.phase, epoch.report.epoch) == ("fit", 3):
            with database.write() as connection:  # nobody is in the middle of anything
                connection.exec_driver_sql("PRAGMA user_version")
            database.dispose()
            file.rename(away)
            file.mkdir()
            back.start()

    with caplog.at_level(logging.WARNING):
        execute(database, settings, claim(database, settings), is_stopping=lambda: False, on_epoch=lose_the_database)
    back.join()
    assert run_of(database, run.id).status == "succeeded"
    assert not math.isnan(run_of(database, run.id).metrics["holdout_rmse"])
    database.dispose()
