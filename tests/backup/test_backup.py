"""A backup is the state of the service at one point in time."""

import random
import shutil
import threading
from pathlib import Path

import pytest

from app.backup import tables as backup_tables
from app.backup.backup import back_up
from app.backup.restore import restore
from app.db.engine import Database
from app.ratings import store
from app.ratings.bulk_read import load_all
from app.ratings.models import NewRating
from app.settings import Settings
from tests.backup.world import digest_of, opened
from tests.registry import world as registry
from tests.training.world import fill


def write_until(database: Database, stop: threading.Event, seed: int) -> None:
    dice = random.Random(seed)
    while not stop.is_set():
        with database.write() as connection:
            rated = [NewRating(f"user-{dice.randrange(60)}", f"item-{dice.randrange(50)}", 3.0) for _ in range(40)]
            store.save_many(connection, rated)


def test_a_backup_under_writes_is_the_state_of_its_revision(
    database: Database, settings: Settings, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is computed in the same transaction; the rows must belong to the very same state."""
    monkeypatch.setattr(backup_tables, "PAGE_NUMBERS", 50)
    fill(database)
    stop = threading.Event()
    writers = [threading.Thread(target=write_until, args=(database, stop, seed)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        made = [back_up(database, settings, tmp_path / f"{number}.zip") for number in range(3)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert made[0].revision < made[-1].revision
    with opened(target) as other:
        for number, backup in enumerate(made):
            back = restore(other, target, tmp_path / f"{number}.zip", replace=number > 0)
            assert (back.digest, back.revision) == (backup.digest, backup.revision)
            assert digest_of(other) == backup.digest
            with other.read() as connection:
                assert load_all(connection).revision == backup.revision
                newest = max(connection.exec_driver_sql("SELECT max(revision) FROM ratings").scalars())
                assert newest == backup.revision


def test_a_damaged_version_is_reported_and_does_not_prevent_a_backup(
    database: Database, settings: Settings, target: Settings, tmp_path: Path
) -> None:
    registry.publish_many(database, settings.versions_dir, [3.0, 4.0])
    shutil.rmtree(settings.versions_dir / "version-3.0")
    made = back_up(database, settings, tmp_path / "backup.zip")
    assert made.n_versions == 1
    assert "version-3.0" in made.warnings[0]
    with opened(target) as other:
        back = restore(other, target, tmp_path / "backup.zip")
    assert back.warnings == made.warnings


def test_a_version_pruned_in_the_meantime_restarts_the_backup(
    sqlite_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.backup import backup as module
    from app.registry import versions

    add_version, pruned = module._add_version, []

    def prune_first(archive, versions_dir, row):  # type: ignore[no-untyped-def]
        if not pruned:
            pruned.extend(versions.prune(database, versions_dir, keep=1))
        return add_version(archive, versions_dir, row)

    with opened(sqlite_settings) as database:
        registry.publish_many(database, sqlite_settings.versions_dir, [3.0, 4.0])
        monkeypatch.setattr(module, "_add_version", prune_first)
        made = back_up(database, sqlite_settings, tmp_path / "backup.zip")
    assert pruned == [1]
    assert (made.n_versions, made.warnings) == (1, ())
