import time

from sqlalchemy import update

from app.db.engine import Database
from app.registry import artifacts
from app.settings import Runs, Settings, Versions
from app.training import queue
from app.training.models import TrainingRun
from app.training.queue import Epoch
from app.training.run import execute
from tests.training.world import (
    active,
    claim,
    enqueue,
    fill,
    listed,
    run_of,
    train,
)


def test_old_versions_and_runs_are_pruned(database: Database, settings: Settings) -> None:
    fill(database)
    few = settings.model_copy(update={"versions": Versions(keep=2), "runs": Runs(keep=3)})
    trained = [train(database, few) for _ in range(4)]
    assert listed(database) == [run.version for run in trained[:1:-1]]
    assert len(artifacts.folders(settings.versions_dir)) == 2
    with database.read() as connection:
        assert [run.id for run in queue.history(connection, limit=9)] == [run.id for run in trained[:0:-1]]


def test_folders_that_were_never_published_are_removed(database: Database, settings: Settings) -> None:
    fill(database)
    first = train(database, settings)
    half_written = settings.versions_dir / ".tmp-killed"
    half_written.mkdir()
    (half_written / "item_bias.npy").write_bytes(b"half")
    [published] = [folder for folder in artifacts.folders(settings.versions_dir) if folder != half_written]
    complete = settings.versions_dir / "complete-but-never-listed"
    complete.mkdir()
    for file in published.iterdir():
        (complete / file.name).write_bytes(file.read_bytes())
    assert listed(database) == [first.version]  # neither is listed, whatever lies on the disk
    second = train(database, settings)
    assert listed(database) == [second.version, first.version]
    names = {folder.name for folder in artifacts.folders(settings.versions_dir)}
    assert published.name in names
    assert not names & {".tmp-killed", "complete-but-never-listed"}


def test_a_trainer_that_lost_its_lease_publishes_nothing(database: Database, settings: Settings) -> None:
    fill(database)
    run = enqueue(database)
    old = claim(database, settings, "old")
    with database.write() as connection:
        connection.execute(update(TrainingRun).values(lease_expires_at=database.now(connection)))
    time.sleep(0.01)
    new = claim(database, settings, "new")
    execute(database, settings, old, is_stopping=lambda: False)
    assert listed(database) == []
    row = run_of(database, run.id)
    assert (row.status, row.worker, row.attempt) == ("running", "new", 2)
    execute(database, settings, new, is_stopping=lambda: False)
    assert run_of(database, run.id).status == "succeeded"
    assert len(listed(database)) == 1


def test_a_lease_that_is_lost_at_the_last_moment_undoes_the_publish(database: Database, settings: Settings) -> None:
    fill(database)
    run = enqueue(database)
    held = claim(database, settings, "old")

    def lose_the_lease(epoch: Epoch) -> None:
        if (epoch.phase, epoch.report.epoch) == ("final", epoch.report.n_epochs):
            with database.write() as connection:
                connection.execute(update(TrainingRun).values(worker="new", attempt=2))

    execute(database, settings, held, is_stopping=lambda: False, on_epoch=lose_the_lease)
    assert listed(database) == []
    assert active(database) is None
    assert run_of(database, run.id).status == "running"
