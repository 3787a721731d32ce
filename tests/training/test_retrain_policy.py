from datetime import UTC, datetime, timedelta

import pytest

from app.db.engine import Database
from app.ratings.models import NewRating
from app.registry import versions
from app.settings import RetrainPolicy, Settings
from app.training import queue
from app.training.models import RunStatus
from app.training.retrain_policy import RetrainMonitor, RetrainState, is_due
from tests.registry.world import publish
from tests.training.world import claim, enqueue, fill, train

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
POLICY = RetrainPolicy(min_changes=100, min_interval=30, max_interval=3600)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("state", "due"),
    [
        pytest.param(RetrainState(0, None, None, 0), False, id="nothing ever happened"),
        pytest.param(RetrainState(100, ago(0), None, 0), True, id="enough changes and no run yet"),
        pytest.param(RetrainState(99, ago(0), None, 0), False, id="too few changes and no run yet"),
        pytest.param(RetrainState(1, ago(3600), None, 0), True, id="one change that waited long enough, no run yet"),
        pytest.param(RetrainState(100, ago(5), ago(29), 0), False, id="enough changes, too soon"),
        pytest.param(RetrainState(100, ago(5), ago(30), 0), True, id="enough changes, late enough"),
        pytest.param(RetrainState(1, ago(3599), ago(4000), 0), False, id="one change that has not waited long enough"),
        pytest.param(RetrainState(1, ago(3600), ago(4000), 0), True, id="one change that has waited long enough"),
        pytest.param(RetrainState(0, None, ago(99_999), 0), False, id="nothing changed for ages"),
        pytest.param(
            RetrainState(0, None, ago(30), 0, True), True, id="nothing changed, but the active version is damaged"
        ),
        pytest.param(RetrainState(0, None, ago(29), 0, True), False, id="active version is damaged, too soon"),
        pytest.param(RetrainState(0, None, ago(59), 1, True), False, id="active version is damaged, after a failure"),
        pytest.param(RetrainState(500, ago(99), ago(59), 1), False, id="one failure doubles the pause"),
        pytest.param(RetrainState(500, ago(99), ago(60), 1), True, id="and then it is tried again"),
        pytest.param(RetrainState(500, ago(99), ago(3599), 50), False, id="many failures: pause of max_interval"),
        pytest.param(RetrainState(500, ago(99), ago(3600), 50), True, id="which is never exceeded"),
    ],
)
def test_a_run_is_due(state: RetrainState, due: bool) -> None:
    assert is_due(POLICY, state, NOW) is due


def test_a_policy_that_is_off_never_asks() -> None:
    assert not is_due(RetrainPolicy(enabled=False, min_changes=1), RetrainState(500, ago(9999), None, 0), NOW)


@pytest.fixture(autouse=True)
def _clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not make a run due."""
    monkeypatch.setattr(Database, "now", lambda _database, _connection: NOW)


def _is_due(database: Database, monitor: RetrainMonitor, later: float = 0) -> bool:
    with database.read() as connection:
        return monitor.is_due(connection, database.now(connection) + timedelta(seconds=later))


def _end_a_run(database: Database, settings: Settings, status: RunStatus, through: int | None) -> None:
    enqueue(database)
    held = claim(database, settings)
    with database.write() as connection:
        queue.finish(connection, held, status, database.now(connection), trained_through=through)


def _rate(database: Database, n: int, value: float = 3.0) -> None:
    fill(database, [NewRating(f"user-{u}", "dune", value) for u in range(n)])


def test_the_first_ratings_are_trained_as_soon_as_there_are_enough(database: Database, settings: Settings) -> None:
    monitor = RetrainMonitor(POLICY, settings.versions_dir)
    assert not _is_due(database, monitor)
    _rate(database, 99)
    assert not _is_due(database, monitor)
    _rate(database, 100)
    assert _is_due(database, monitor)


@pytest.mark.parametrize("is_claimed", [False, True])
def test_nothing_is_due_while_a_run_is_queued_or_running(
    database: Database, settings: Settings, is_claimed: bool
) -> None:
    _rate(database, 100)
    enqueue(database)
    if is_claimed:
        claim(database, settings)
    assert not _is_due(database, RetrainMonitor(POLICY, settings.versions_dir))


def test_what_a_run_has_learned_is_not_counted_again(database: Database, settings: Settings) -> None:
    _rate(database, 100)
    _end_a_run(database, settings, "succeeded", through=100)
    monitor = RetrainMonitor(POLICY, settings.versions_dir)
    assert not _is_due(database, monitor, later=9999)
    _rate(database, 100, value=4.0)
    assert not _is_due(database, monitor)
    assert _is_due(database, monitor, later=31)


@pytest.mark.parametrize("status", ["rejected", "cancelled"])
def test_ratings_of_a_run_that_came_to_a_conclusion_are_not_tried_again(
    database: Database, settings: Settings, status: RunStatus
) -> None:
    _rate(database, 100)
    _end_a_run(database, settings, status, through=100)
    assert not _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=9999)


def test_a_failed_run_is_tried_again_after_ever_longer_pauses(database: Database, settings: Settings) -> None:
    _rate(database, 100)
    for pause in (60, 120, 240):
        _end_a_run(database, settings, "failed", through=100)
        assert not _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=pause - 5)
        assert _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=pause + 5)


def test_a_single_change_waits_no_longer_than_the_longest_interval(database: Database, settings: Settings) -> None:
    _rate(database, 100)
    _end_a_run(database, settings, "succeeded", through=100)
    monitor = RetrainMonitor(POLICY, settings.versions_dir)
    assert not _is_due(database, monitor, later=10)
    _rate(database, 1, value=5.0)
    assert not _is_due(database, monitor, later=4000)  # seen for the first time now
    assert not _is_due(database, monitor, later=4000 + 3599)
    assert _is_due(database, monitor, later=4000 + 3601)


def test_a_monitor_that_starts_anew_assumes_that_changes_are_as_old_as_they_can_be(
    database: Database, settings: Settings
) -> None:
    _rate(database, 100)
    _end_a_run(database, settings, "succeeded", through=100)
    _rate(database, 1, value=5.0)
    assert not _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=3590)
    assert _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=3610)


def test_removed_ratings_count_as_changes(database: Database, settings: Settings) -> None:
    from app.ratings import store

    _rate(database, 100)
    _end_a_run(database, settings, "succeeded", through=100)
    with database.write() as connection:
        for user in range(100):
            store.remove(connection, f"user-{user}", "dune")
    assert _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=31)


def test_a_damaged_active_version_is_replaced_although_nothing_has_changed(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    fill(database)
    run = train(database, settings)
    assert not _is_due(database, RetrainMonitor(POLICY, settings.versions_dir), later=31)
    with database.read() as connection:
        active = versions.get_active(connection)
    (settings.versions_dir / active.folder / "item_factors.npy").unlink()
    monitor = RetrainMonitor(POLICY, settings.versions_dir)
    for later in (1, 2, 31):
        assert _is_due(database, monitor, later=later) is (later == 31)
    assert len(caplog.records) == 1
    again = train(database, settings)
    assert again.status == "succeeded"
    assert again.version > run.version
    assert not _is_due(database, monitor, later=31)


def test_damage_to_the_active_version_is_found_while_the_trainer_runs(database: Database, settings: Settings) -> None:
    publish(database, settings.versions_dir, name="sound")
    monitor = RetrainMonitor(POLICY, settings.versions_dir)
    assert not _is_due(database, monitor)
    (settings.versions_dir / "sound" / "item_factors.npy").unlink()
    assert not _is_due(database, monitor, later=60)  # checksums of a large version take a while
    assert _is_due(database, monitor, later=601)
