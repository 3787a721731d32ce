import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.db.engine import Database
from app.registry import artifacts, versions
from app.registry.artifacts import DamagedVersion
from app.registry.versions import ActiveVersion, NoActiveVersion, UnknownVersion
from app.settings import Settings
from tests.registry.world import publish, publish_many


@pytest.fixture
def versions_dir(settings: Settings) -> Path:
    return settings.versions_dir


def _listed(database: Database) -> list[int]:
    with database.read() as connection:
        return [row.version for row in versions.history(connection, limit=100)]


def _active(database: Database) -> int:
    with database.read() as connection:
        return versions.get_active(connection).version


def test_before_the_first_publish_there_is_no_active_version(database: Database) -> None:
    with database.read() as connection, pytest.raises(NoActiveVersion):
        versions.get_active(connection)


def test_a_published_version_is_listed_and_active(database: Database, versions_dir: Path) -> None:
    first, second = publish_many(database, versions_dir, [1.0, 2.0])
    assert _listed(database) == [second, first]
    assert _active(database) == second


def test_a_publish_that_is_undone_lists_nothing_and_moves_nothing(database: Database, versions_dir: Path) -> None:
    first = publish(database, versions_dir, 1.0)
    with contextlib.suppress(RuntimeError), database.write() as connection:
        row = versions.get(connection, first)
        versions.publish(connection, run_id=2, folder="x", manifest=row.manifest, created_at=row.created_at)
        raise RuntimeError
    assert _listed(database) == [first]
    assert _active(database) == first


def test_history_goes_from_the_newest_to_the_oldest_in_pages(database: Database, versions_dir: Path) -> None:
    first, second, third = publish_many(database, versions_dir, [1.0, 2.0, 3.0])
    with database.read() as connection:
        page = versions.history(connection, limit=2)
        rest = versions.history(connection, limit=2, before=page[-1].version)
    assert [row.version for row in page] == [third, second]
    assert [(row.version, row.is_active) for row in rest] == [(first, False)]


def test_an_older_version_can_be_made_active(database: Database, versions_dir: Path) -> None:
    first, _ = publish_many(database, versions_dir, [1.0, 2.0])
    assert versions.activate(database, versions_dir, first).is_active
    assert _active(database) == first


def test_a_damaged_version_is_not_activated_and_what_answers_stays(database: Database, versions_dir: Path) -> None:
    first, second = publish_many(database, versions_dir, [1.0, 2.0])
    (versions_dir / "version-1.0" / "item_bias.npy").unlink()
    with pytest.raises(DamagedVersion):
        versions.activate(database, versions_dir, first)
    assert _active(database) == second


def test_activating_a_version_that_does_not_exist_says_so(database: Database, versions_dir: Path) -> None:
    with pytest.raises(UnknownVersion, match="model version 9 does not exist"):
        versions.activate(database, versions_dir, 9)


def test_pruning_keeps_the_newest_and_the_active_one(database: Database, versions_dir: Path) -> None:
    numbers = publish_many(database, versions_dir, [1.0, 2.0, 3.0, 4.0, 5.0])
    versions.activate(database, versions_dir, numbers[0])
    assert versions.prune(database, versions_dir, keep=2) == [numbers[1], numbers[2]]
    assert _listed(database) == [numbers[4], numbers[3], numbers[0]]
    assert sorted(folder.name for folder in artifacts.folders(versions_dir)) == [
        "version-1.0",
        "version-4.0",
        "version-5.0",
    ]


def test_deleting_removes_row_and_folder(database: Database, versions_dir: Path) -> None:
    first, second = publish_many(database, versions_dir, [1.0, 2.0])
    versions.remove(database, versions_dir, first)
    assert _listed(database) == [second]
    assert not (versions_dir / "version-1.0").exists()


def test_the_active_version_is_not_deleted(database: Database, versions_dir: Path) -> None:
    only = publish(database, versions_dir)
    with pytest.raises(ActiveVersion):
        versions.remove(database, versions_dir, only)
    assert _active(database) == only


def test_a_deleted_number_is_not_given_out_again(database: Database, versions_dir: Path) -> None:
    _, second = publish_many(database, versions_dir, [1.0, 2.0])
    versions.activate(database, versions_dir, 1)
    versions.remove(database, versions_dir, second)
    assert publish(database, versions_dir, 3.0) > second


def test_activating_and_deleting_at_once_never_leaves_a_pointer_to_nothing(
    database: Database, versions_dir: Path
) -> None:
    publish(database, versions_dir, 0.0)
    for turn in range(1, 9):
        older = publish(database, versions_dir, float(turn))
        newer = publish(database, versions_dir, turn + 0.5)
        start = threading.Barrier(2)

        def activate(older: int = older, start: threading.Barrier = start) -> None:
            start.wait()
            _expected(lambda: versions.activate(database, versions_dir, older))

        def delete(older: int = older, start: threading.Barrier = start) -> None:
            start.wait()
            _expected(lambda: versions.remove(database, versions_dir, older))

        threads = [threading.Thread(target=work) for work in (activate, delete)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert _active(database) in (older, newer)
        assert (versions_dir / f"version-{float(turn)}").exists() == (older in _listed(database))
        assert (_active(database) == older) == (older in _listed(database))


def _expected(action: Callable[[], object]) -> None:
    """Run what may lose a race: it must lose in one of the ways that the caller is told about."""
    with contextlib.suppress(UnknownVersion, ActiveVersion, DamagedVersion):
        action()
