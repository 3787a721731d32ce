"""Migrations: many at once, and two releases side by side."""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Engine, create_engine, text

import migrations
from app.backup.backup import back_up
from app.db.engine import Database, open_database
from app.demo.service_process import running_service
from app.main import create_app
from app.settings import Settings
from tests.asgi import serving
from tests.conftest import KERNELS, REPOSITORY, skip_or_fail, unmigrated_postgres
from tests.test_database_away import Load
from tests.training.world import fill, train, wait_until

CONTRACTIONS: dict[str, str] = {}
"""Migrations that take something away, and the release that was the last to use it, which is no longer supported."""


def scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(migrations._config()).walk_revisions())


def statements(script: Script, dialect: str) -> list[str]:
    """What a migration would execute."""
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        script.module.upgrade()
    without_bodies = re.sub(r"\$\$.*?\$\$", "$$ $$", written.getvalue(), flags=re.DOTALL)  # a function's own statements
    return [" ".join(statement.split()) for statement in without_bodies.split(";") if statement.strip()]


def complaint(statement: str, made_here: set[str]) -> str | None:
    """Why the release before could not go on with this statement's outcome, if so."""
    if made := re.match(r"CREATE TABLE (\w+)", statement):
        made_here.add(made[1])
        return None
    if re.match(r"CREATE INDEX |DROP INDEX |CREATE FUNCTION ", statement):
        return None
    if unique := re.match(r"CREATE UNIQUE INDEX \w+ ON (\w+)", statement):
        return None if unique[1] in made_here else "refuses rows that the release before writes"
    if inserted := re.match(r"INSERT INTO (\w+)", statement):
        return None if inserted[1] in made_here else "changes data that the release before uses"
    if added := re.match(r"ALTER TABLE \w+ ADD COLUMN (.*)", statement):
        is_safe = "NOT NULL" not in added[1] or "DEFAULT" in added[1]
        return None if is_safe else "adds a column that the release before does not fill"
    return "takes away or changes what the release before uses"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.revision)
def test_a_migration_only_adds(script: Script, dialect: str) -> None:
    if script.revision in CONTRACTIONS:
        return
    made_here: set[str] = set()
    complaints = {each: complaint(each, made_here) for each in statements(script, dialect)}
    assert {each: why for each, why in complaints.items() if why} == {}


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE items DROP COLUMN title",
        "ALTER TABLE items RENAME COLUMN title TO name",
        "ALTER TABLE items ADD COLUMN rank INTEGER NOT NULL",
        "ALTER TABLE items ALTER COLUMN title SET NOT NULL",
        "ALTER TABLE items ADD CONSTRAINT ck CHECK (title <> '')",
        "CREATE UNIQUE INDEX uq ON items (title)",
        "DROP TABLE items",
        "UPDATE items SET title = ''",
    ],
)
def test_what_the_release_before_could_not_bear_is_seen(statement: str) -> None:
    assert complaint(statement, set())


NEXT_RELEASE = (
    "ALTER TABLE items ADD COLUMN popularity FLOAT",
    "ALTER TABLE ratings ADD COLUMN context VARCHAR(20)",
    "ALTER TABLE users ADD COLUMN segment INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE training_runs ADD COLUMN priority INTEGER DEFAULT 1 NOT NULL",
    "ALTER TABLE model_versions ADD COLUMN note TEXT",
    "CREATE TABLE later (id INTEGER PRIMARY KEY, about VARCHAR(20))",
    f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'",
)


@pytest.fixture
def migrated_by_the_next_release(database: Database, settings: Settings) -> Settings:
    with database.write() as connection:
        for statement in NEXT_RELEASE:
            connection.exec_driver_sql(statement)
    return settings


def test_this_release_works_with_the_schema_of_the_next(
    migrated_by_the_next_release: Settings, database: Database, tmp_path: Path
) -> None:
    settings = migrated_by_the_next_release
    migrations.upgrade(database, settings)  # as every start does with SQLite; it must leave the schema alone
    assert migrations.is_usable(database)
    fill(database)
    assert train(database, settings).status == "succeeded"
    with serving(create_app(settings)) as client:
        assert client.post("/v1/ratings", json={"user_id": "a", "item_id": "b", "value": 3}).status_code == 201
        assert client.put("/v1/items/b", json={"title": "B"}).status_code == 200
        assert client.get("/v1/users/user-1/recommendations").json()["items"]
        assert client.delete("/v1/users/a").status_code == 200
        assert client.post("/v1/training-runs", json={}).status_code == 202
    assert back_up(database, settings, tmp_path / "backup.zip").n_versions == 1


@pytest.fixture(params=["sqlite", "postgresql"])
def unmigrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables of a service whose database is not made yet."""
    variables = {"PALATE_DATA_DIR": str(tmp_path), "PALATE_KERNEL_CACHE_DIR": str(KERNELS)}
    if request.param == "sqlite":
        yield variables
        return
    with unmigrated_postgres(request) as url:
        yield variables | {"PALATE_DATABASE_URL": url}


def test_replicas_that_start_together_migrate_once(unmigrated: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in unmigrated.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "app.cli", "migrate"]
    replicas = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    for replica in replicas:
        _, complaints = replica.communicate(timeout=60)
        assert (replica.returncode, complaints) == (0, b"")
    database = open_database(Settings())
    assert migrations.is_usable(database)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM counters")).scalar_one() == 5
    database.dispose()


def test_a_migration_waits_for_a_table_in_use_without_holding_up_the_others(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks for a table behind a waiting migration waits as well, so the migration must let go in between."""
    monkeypatch.setattr(migrations, "_LOCK_PATIENCE", "200ms")
    monkeypatch.setattr(migrations, "_PAUSE", 0.1)
    caplog.set_level("INFO", "migrations")
    with unmigrated_postgres(request) as url:
        settings = Settings(data_dir=tmp_path, database_url=url)
        database = open_database(settings)
        engine: Engine = create_engine(url)
        with engine.begin() as long:  # an old table of this name that somebody reads: CREATE TABLE must wait
            long.execute(text("CREATE TABLE counters (name text)"))
            migrating = threading.Thread(target=lambda: migrations.upgrade(database, settings))
            migrating.start()
            wait_until(lambda: caplog.messages.count("the tables are in use; trying again in 0 s") >= 2)
            assert migrating.is_alive()
            long.rollback()
        migrating.join(30)
        assert migrations.is_usable(database)
        engine.dispose()
        database.dispose()


def previous_release(folder: Path) -> Path:
    """The code from just before the newest migration was written, out of the history of the repository."""
    git = shutil.which("git")
    newest = max((REPOSITORY / "migrations" / "versions").glob("0*.py"))
    if not git:
        skip_or_fail("no git: the release before is taken from the history")
    found = subprocess.run(
        [git, "log", "--follow", "--diff-filter=A", "--format=%H", "--", newest.relative_to(REPOSITORY)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if not found.stdout.strip():
        skip_or_fail("no history: the release before cannot be had")
    archive = subprocess.run(
        [git, "archive", f"{found.stdout.split()[-1]}^", "app", "migrations"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.mark.soak
def test_an_upgrade_under_load_fails_no_request(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old release alone, then `palate migrate` of the new one, then both side by side, then the new one alone."""
    old_code = previous_release(tmp_path / "old")
    with unmigrated_postgres(request) as url:
        variables = {"PALATE_DATABASE_URL": url, "PALATE_KERNEL_CACHE_DIR": str(tmp_path / "kernels")}
        variables |= {"PALATE_DATA_DIR": str(tmp_path / "data"), "PALATE_TRAINER": "external"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        palate = [sys.executable, "-m", "app.cli"]
        subprocess.run([*palate, "migrate"], cwd=old_code, check=True)
        database = open_database(Settings())
        assert not migrations.is_usable(database), "this is to begin with the schema of the release before"
        database.dispose()
        loads = []
        monkeypatch.chdir(old_code)
        environment = {"PYTHONPATH": str(old_code)}
        with running_service(tmp_path / "data", environment=environment) as old, Load(old.url) as load:
            loads.append(load)
            time.sleep(2)
            subprocess.run([*palate, "migrate"], cwd=REPOSITORY, check=True)
            monkeypatch.chdir(REPOSITORY)
            with running_service(tmp_path / "data") as new, Load(new.url) as other:
                loads.append(other)
                time.sleep(3)
        for load in loads:
            assert len(load.acknowledged) > 20
            assert not load.failed
            assert {(what, status) for _, _, what, status, _ in load.answers if status >= 300} <= {("similar", 404)}
