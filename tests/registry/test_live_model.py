import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.engine import Database
from app.registry import artifacts, versions
from app.registry.artifacts import LoadedVersion
from app.registry.live_model import LiveModel
from app.settings import Settings, Versions
from tests.registry.world import publish, publish_many


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"versions": Versions(poll_interval=0.02)})


@pytest.fixture
def live(database: Database, quick: Settings) -> Iterator[LiveModel]:
    live = LiveModel(database, quick)
    yield live
    live.stop()


@pytest.fixture
def versions_dir(settings: Settings) -> Path:
    return settings.versions_dir


def _served(live: LiveModel) -> int | None:
    return live.current.version if live.current else None


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_before_the_first_publish_there_is_no_version_and_no_problem(live: LiveModel) -> None:
    live.start()
    assert live.current is None
    assert live.problem is None


def test_the_active_version_is_loaded_before_start_returns(
    database: Database, live: LiveModel, versions_dir: Path
) -> None:
    version = publish(database, versions_dir)
    live.start()
    assert _served(live) == version


def test_a_newly_active_version_is_picked_up(database: Database, live: LiveModel, versions_dir: Path) -> None:
    live.start()
    first, second = publish_many(database, versions_dir, [1.0, 2.0])
    _wait_until(lambda: _served(live) == second)
    versions.activate(database, versions_dir, first)
    _wait_until(lambda: _served(live) == first)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_version_is_refused_and_the_old_one_stays(
    database: Database, live: LiveModel, versions_dir: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = publish(database, versions_dir, 1.0)
    live.refresh()
    publish(database, versions_dir, 2.0)
    file = versions_dir / "version-2.0" / "item_factors.npy"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(file.stat().st_size))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            live.refresh()
    assert _served(live) == good
    assert live.problem is not None
    assert "version-2.0: item_factors.npy" in live.problem
    assert len(caplog.records) == 1


def test_at_start_the_newest_intact_version_replaces_a_damaged_one(
    database: Database, live: LiveModel, versions_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, intact, *_ = publish_many(database, versions_dir, [1.0, 2.0, 3.0, 4.0])
    for damaged in ("version-3.0", "version-4.0"):
        (versions_dir / damaged / "item_factors.npy").unlink()
    live.refresh()
    assert _served(live) == intact
    assert live.problem is not None
    assert "version-4.0: item_factors.npy is missing" in live.problem
    assert f"version {intact} is served" in caplog.text
    newest = publish(database, versions_dir, 5.0)
    live.refresh()
    assert _served(live) == newest
    assert live.problem is None


def test_without_an_intact_version_popular_items_are_served(
    database: Database, live: LiveModel, versions_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(database, versions_dir, 1.0)
    (versions_dir / "version-1.0" / "manifest.json").unlink()
    live.refresh()
    assert live.current is None
    assert "no version can be served: popular items and mean ratings are" in caplog.text


def test_a_problem_is_over_when_an_intact_version_is_active(
    database: Database, live: LiveModel, versions_dir: Path
) -> None:
    good = publish(database, versions_dir, 1.0)
    publish(database, versions_dir, 2.0)
    (versions_dir / "version-2.0" / "manifest.json").unlink()
    live.refresh()
    assert live.problem is not None
    versions.activate(database, versions_dir, good)
    live.refresh()
    assert _served(live) == good
    assert live.problem is None


def test_after_an_unexpected_error_the_active_version_is_still_followed(
    database: Database, live: LiveModel, versions_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = publish(database, versions_dir, 1.0)
    publish(database, versions_dir, 2.0)
    load = artifacts.load

    def load_or_run_out_of_memory(folder: Path, *rest: Any) -> LoadedVersion:
        if folder.name == "version-2.0":
            raise MemoryError("no room")
        return load(folder, *rest)

    monkeypatch.setattr(artifacts, "load", load_or_run_out_of_memory)
    live.start()
    assert live.problem == "the active version cannot be loaded: MemoryError: no room"
    versions.activate(database, versions_dir, good)
    _wait_until(lambda: _served(live) == good and live.problem is None)


def test_while_the_database_is_away_the_version_stays(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    from app.db.engine import open_database

    database = open_database(sqlite_settings)
    version = publish(database, sqlite_settings.versions_dir)
    live = LiveModel(database, sqlite_settings)
    live.refresh()
    database.dispose()
    file = sqlite_settings.data_dir / "palate.db"
    file.rename(file.with_suffix(".away"))
    file.mkdir()  # cannot be opened as a database
    live.refresh()
    assert _served(live) == version
    assert live.problem == "the active version cannot be read: OperationalError"


def test_readers_never_see_a_mixture_of_two_versions(database: Database, live: LiveModel, versions_dir: Path) -> None:
    first, second = publish_many(database, versions_dir, [1.0, 2.0])
    mean_of = {first: 1.0, second: 2.0}
    live.start()
    stop, seen, mixed = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            current = live.current
            assert current is not None
            seen.add(current.version)
            means = {current.model.mean, float(current.model.item_means[0]), mean_of[current.version]}
            if len(means) != 1:
                mixed.append(current.version)
            time.sleep(0.0005)  # leave the swap some of the processor

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(10):
        expected = (first, second)[turn % 2]
        versions.activate(database, versions_dir, expected)
        _wait_until(lambda expected=expected: _served(live) == expected)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen == {first, second}
    assert mixed == []
