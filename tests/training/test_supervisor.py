import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.db.engine import Database, open_database
from app.settings import RetrainPolicy, Settings, Training
from app.training import supervisor
from app.training.supervisor import EmbeddedTrainer
from tests.training.world import ENDLESS, enqueue, epochs_of, fill, ratings_of, run_of, wait_until


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    return sqlite_settings.model_copy(
        update={"training": Training(lease=1, poll_interval=0.05), "retrain": RetrainPolicy(enabled=False)}
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.dispose()


@pytest.fixture
def trainers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EmbeddedTrainer]]:
    monkeypatch.setattr(supervisor, "LOCK_POLL_INTERVAL", 0.05)
    trainers = [EmbeddedTrainer(settings) for _ in range(3)]
    for trainer in trainers:
        trainer.start()
    yield trainers
    for trainer in trainers:
        trainer.stop()


def _pids(trainers: list[EmbeddedTrainer]) -> list[int]:
    return [trainer.pid for trainer in trainers if trainer.pid is not None]


def test_exactly_one_of_many_services_starts_a_trainer(trainers: list[EmbeddedTrainer], database: Database) -> None:
    fill(database)
    run = enqueue(database)
    wait_until(lambda: run_of(database, run.id).status == "succeeded")
    assert len(_pids(trainers)) == 1


def test_a_trainer_that_dies_is_started_again(trainers: list[EmbeddedTrainer], database: Database) -> None:
    wait_until(lambda: len(_pids(trainers)) == 1)
    [first] = _pids(trainers)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _pids(trainers) not in ([], [first]))
    assert len(_pids(trainers)) == 1


def test_a_trainer_that_cannot_be_started_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.05)
    in_the_way = settings.data_dir / "trainer.lock"
    in_the_way.mkdir()
    trainer = EmbeddedTrainer(settings)
    trainer.start()
    wait_until(lambda: "trainer.lock" in caplog.text)
    in_the_way.rmdir()
    wait_until(lambda: trainer.pid is not None)
    trainer.stop()
    assert trainer.pid is None


def test_stopping_hands_the_run_back_and_another_service_goes_on_with_it(
    trainers: list[EmbeddedTrainer], database: Database
) -> None:
    fill(database, ratings_of(200, 100))
    run = enqueue(database, ENDLESS)
    wait_until(lambda: len(epochs_of(database, run.id)) > 0)
    [owner] = [trainer for trainer in trainers if trainer.pid]
    first = owner.pid
    owner.stop()
    assert owner.pid is None
    wait_until(lambda: run_of(database, run.id).attempt == 2 and len(epochs_of(database, run.id)) > 0)
    assert len(_pids(trainers)) == 1
    assert _pids(trainers) != [first]


def test_a_killed_service_leaves_no_trainer_and_the_next_one_takes_over(settings: Settings, database: Database) -> None:
    service = (
        "import sys, time\n"
        "from app.settings import Settings\n"
        "from app.training.supervisor import EmbeddedTrainer\n"
        "EmbeddedTrainer(Settings.model_validate_json(sys.argv[1])).start()\n"
        "time.sleep(600)\n"
    )
    fill(database, ratings_of(200, 100))
    run = enqueue(database, ENDLESS)
    arguments = [sys.executable, "-c", service, settings.model_dump_json()]
    first = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(epochs_of(database, run.id)) > 0)
    first.kill()
    first.wait()
    second = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    wait_until(lambda: run_of(database, run.id).attempt == 2 and len(epochs_of(database, run.id)) > 0)
    second.kill()
    second.wait()
    wait_until(lambda: run_of(database, run.id).status == "queued")  # its trainer handed the run back and ended
