"""`palate doctor`: what is well is said, what is ill is named with what to do about it."""

import fcntl
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

import migrations
from app import doctor
from app.cli.commands import app
from app.db.engine import Database
from app.db.tables import utc_now
from app.doctor import Finding, examine
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


def ill() -> list[Finding]:
    return [found for found in examine() if found.verdict == "problem"]


def only_problem() -> Finding:
    [found] = ill()
    return found


def test_a_service_in_order_has_no_problem(database: Database, settings: Settings) -> None:
    fill(database)
    registry.publish(database, settings.versions_dir)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "version 1 is active, 1 are kept" in result.output
    subjects = {found.subject for found in examine()}
    assert subjects >= {"settings", "database", "migrations", "versions", "kernel cache", "clocks", "disk", "trainer"}


def test_settings_that_make_no_sense_are_all_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_RATING_MIN", "9")
    [found] = examine()
    assert (found.subject, found.verdict) == ("settings", "problem")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_damaged_version_is_told_with_its_file(database: Database, settings: Settings) -> None:
    registry.publish_many(database, settings.versions_dir, [3.0, 4.0])
    for mean in (3.0, 4.0):
        file = settings.versions_dir / f"version-{mean}" / "item_bias.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "item_bias.npy" in only_problem().told
    assert [found.advice for found in examine() if found.subject == "versions"][:2] == [
        "activate another version, train, or restore a backup; all processes need the same data folder",
        "run `palate models delete 1`",
    ]


def test_a_run_that_nobody_takes_and_one_whose_trainer_is_silent_are_told(
    database: Database, settings: Settings
) -> None:
    run = enqueue(database)
    assert not ill()
    long_ago = int((utc_now() - timedelta(minutes=2)).timestamp() * 1e6)
    with database.write() as connection:
        connection.execute(text(f"UPDATE training_runs SET created_at = {long_ago}"))
    assert "nobody takes it" in only_problem().told
    assert "palate worker" in only_problem().advice
    claim(database, settings)
    assert not ill()
    with database.write() as connection:
        connection.execute(text(f"UPDATE training_runs SET lease_expires_at = {long_ago}"))
    assert f"run {run.id} is held by me, silent" in only_problem().told


def test_a_schema_that_is_not_current_is_told(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text(f"DELETE FROM {migrations.VERSION_TABLE}"))
    assert only_problem().advice == "run `palate migrate`"
    with database.write() as connection:
        connection.execute(text(f"INSERT INTO {migrations.VERSION_TABLE} VALUES ('9999')"))
    assert not ill()


def test_a_database_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/name")
    assert only_problem().subject == "database"
    assert "secret" not in str(list(examine()))


def test_a_folder_without_a_database_is_told_and_none_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("PALATE_DATABASE_URL", raising=False)
    assert only_problem().told == f"there is none at {tmp_path / 'nowhere' / 'palate.db'}"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", "/proc")  # where nobody makes files
    assert only_problem().subject == "kernel cache"


def test_a_full_disk_and_clocks_that_differ_are_told(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr("app.doctor.shutil.disk_usage", lambda _: usage)
    assert only_problem().subject == "disk"
    monkeypatch.setattr(doctor, "utc_now", lambda: utc_now() + timedelta(minutes=1))
    assert [found.subject for found in ill()] == ["disk", "clocks"]


def test_an_embedded_trainer_is_known_by_its_lock(
    monkeypatch: pytest.MonkeyPatch, database: Database, settings: Settings
) -> None:
    def trainer() -> Finding:
        return next(found for found in examine() if found.subject == "trainer")

    monkeypatch.setenv("PALATE_TRAINER", "embedded")
    assert trainer().verdict == "warning"
    with (settings.data_dir / "trainer.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert trainer().verdict == "ok"
