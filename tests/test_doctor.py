"""`palate doctor` reports each problem with what to do about it."""

import fcntl
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

import migrations
from app import doctor
from app.cli.__main__ import app
from app.db.engine import Database
from app.db.tables import utc_now
from app.doctor import Finding, run_checks
from app.settings import Settings
from tests.registry import world as registry
from tests.training.world import claim, enqueue, fill


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(settings.kernels_dir))
    monkeypatch.setenv("PALATE_TRAINER", "external")
    if settings.database_url:
        monkeypatch.setenv("PALATE_DATABASE_URL", settings.database_url)


def problems() -> list[Finding]:
    return [finding for finding in run_checks() if finding.verdict == "problem"]


def only_problem() -> Finding:
    [finding] = problems()
    return finding


def test_a_service_in_order_has_no_problem(database: Database, settings: Settings) -> None:
    fill(database)
    registry.publish(database, settings.versions_dir)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "version 1 is active, 1 are kept" in result.output
    subjects = {finding.subject for finding in run_checks()}
    assert subjects >= {"settings", "database", "migrations", "versions", "kernel cache", "clocks", "disk", "trainer"}


def test_invalid_settings_are_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_RATING_MIN", "9")
    [finding] = run_checks()
    assert (finding.subject, finding.verdict) == ("settings", "problem")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_damaged_version_is_reported_with_its_file(database: Database, settings: Settings) -> None:
    registry.publish_many(database, settings.versions_dir, [3.0, 4.0])
    for mean in (3.0, 4.0):
        file = settings.versions_dir / f"version-{mean}" / "item_bias.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "item_bias.npy" in only_problem().message
    assert [finding.advice for finding in run_checks() if finding.subject == "versions"][:2] == [
        "activate another version, train, or restore a backup; all processes need the same data folder",
        "run `palate models delete 1`",
    ]


def test_a_run_that_no_trainer_takes_and_one_with_an_expired_lease_are_reported(
    database: Database, settings: Settings
) -> None:
    run = enqueue(database)
    assert not problems()
    long_ago = int((utc_now() - timedelta(minutes=2)).timestamp() * 1e6)
    with database.write() as connection:
        connection.execute(text(f"UPDATE training_runs SET created_at = {long_ago}"))
    assert "no trainer takes it" in only_problem().message
    assert "palate worker" in only_problem().advice
    claim(database, settings)
    assert not problems()
    with database.write() as connection:
        connection.execute(text(f"UPDATE training_runs SET lease_expires_at = {long_ago}"))
    assert f"run {run.id} is held by me, " in only_problem().message


def test_a_schema_that_is_not_current_is_reported(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text(f"DELETE FROM {migrations.VERSION_TABLE}"))
    assert only_problem().advice == "run `palate migrate`"
    with database.write() as connection:
        connection.execute(text(f"INSERT INTO {migrations.VERSION_TABLE} VALUES ('9999')"))
    assert not problems()


def test_a_database_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/name")
    assert only_problem().subject == "database"
    assert "secret" not in str(list(run_checks()))


def test_a_folder_without_a_database_is_reported_and_none_is_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("PALATE_DATABASE_URL", raising=False)
    assert only_problem().message == f"there is none at {tmp_path / 'nowhere' / 'palate.db'}"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", "/proc")  # where no files can be created
    assert only_problem().subject == "kernel cache"


def test_a_full_disk_and_clocks_that_differ_are_reported(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr("app.doctor.shutil.disk_usage", lambda _: usage)
    assert only_problem().subject == "disk"
    monkeypatch.setattr(doctor, "utc_now", lambda: utc_now() + timedelta(minutes=1))
    assert [finding.subject for finding in problems()] == ["disk", "clocks"]


def test_an_embedded_trainer_is_known_by_its_lock(
    monkeypatch: pytest.MonkeyPatch, database: Database, settings: Settings
) -> None:
    def trainer() -> Finding:
        return next(finding for finding in run_checks() if finding.subject == "trainer")

    monkeypatch.setenv("PALATE_TRAINER", "embedded")
    assert trainer().verdict == "warning"
    with (settings.data_dir / "trainer.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert trainer().verdict == "ok"
