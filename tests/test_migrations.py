"""Migrations: several processes at once, and two releases side by side."""

import io
import re
import shutil
import subprocess
import sys
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
from tests.conftest import KERNELS, REPOSITORY, unmigrated_postgres
from tests.test_database_away import Load
from tests.training.world import fill, train, wait_until

CONTRACTIONS: dict[str, str] = {}
"""Migrations that remove something, and the last release that used it, which is no longer supported."""


def scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(migrations._config()).walk_revisions())


def statements(script: Script, dialect: str) -> list[str]:
    """The statements that a migration executes."""
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name=dialect, opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        script.module.upgrade()
    without_bodies = re.sub(r"\$\$.*?\$\$", "$$ $$", written.getvalue(), flags=re.DOTALL)  # a function's own statements
    without_bodies = re.sub(r"^--.*$", "", without_bodies, flags=re.MULTILINE)
    return [" ".join(statement.split()) for statement in without_bodies.split(";") if statement.strip()]


def objection(statement: str, created_here: set[str]) -> str | None:
    """Why the previous release could not work after this statement; None if it could."""
    if created := re.match(r"CREATE TABLE (\w+)", statement):
        created_here.add(created[1])
        return None
    if re.match(r"CREATE INDEX |DROP INDEX |CREATE FUNCTION ", statement):
        return None
    if unique := re.match(r"CREATE UNIQUE INDEX \w+ ON (\w+)", statement):
        return None if unique[1] in created_here else "refuses rows that the previous release writes"
    if inserted := re.match(r"INSERT INTO (\w+)", statement):
        return None if inserted[1] in created_here else "changes data that the previous release uses"
    if added := re.match(r"ALTER TABLE \w+ ADD COLUMN (.*)", statement):
        is_safe = "NOT NULL" not in added[1] or "DEFAULT" in added[1]
        return None if is_safe else "adds a column that the previous release does not fill"
    return "removes or changes something that the previous release uses"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.revision)
def test_a_migration_only_adds(script: Script, dialect: str) -> None:
    if script.revision in CONTRACTIONS:
        return
    created_here: set[str] = set()
    objections = {each: objection(each, created_here) for each in statements(script, dialect)}
    assert {each: why for each, why in objections.items() if why} == {}


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
def test_a_statement_that_breaks_the_previous_release_is_refused(statement: str) -> None:
    assert objection(statement, set())


NEXT_RELEASE = (
    "ALTER TABLE items ADD COLUMN popularity FLOAT",
    "ALTER TABLE ratings ADD COLUMN context VARCHAR(20)",
    "ALTER TABLE users ADD COLUMN segment INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE training_runs ADD COLUMN priority INTEGER DEFAULT 1 NOT NULL",
    "ALTER TABLE model_versions ADD COLUMN note TEXT",
    "CREATE TABLE later (id INTEGER PRIMARY KEY, about VARCHAR(20))",
)


@pytest.fixture
def migrated_by_the_next_release(database: Database, settings: Settings) -> Settings:
    with database.write() as connection:
        for statement in NEXT_RELEASE:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    return settings


def test_this_release_works_with_the_schema_of_the_next(
    migrated_by_the_next_release: Settings, database: Database, tmp_path: Path
) -> None:
    settings = migrated_by_the_next_release
    migrations.upgrade(database, settings)  # as at every start on SQLite; it must leave the schema alone
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
    """Environment variables of a service whose database does not exist yet."""
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
        _, stderr = replica.communicate(timeout=60)
        assert (replica.returncode, stderr) == (0, b"")
    database = open_database(Settings())
    assert migrations.is_usable(database)
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM counters")).scalar_one() == 5
    database.dispose()


def test_a_migration_that_waits_for_a_table_does_not_block_queries(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Queries queue up behind a migration that waits for a lock, so the migration must give up and try again."""
    monkeypatch.setattr(migrations, "_LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr(migrations, "_RETRY_DELAY", 0.1)
    caplog.set_level("INFO", "migrations")
    with unmigrated_postgres(request) as url:
        settings = Settings(data_dir=tmp_path, database_url=url)
        database = open_database(settings)
        engine: Engine = create_engine(url)
        with engine.begin() as long:  # an uncommitted table of this name: CREATE TABLE must wait
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


NEXT_MIGRATION = """
# Alters one busy table only: two in one transaction can deadlock with requests.
from alembic import op

revision, down_revision = "9999", "{head}"


def upgrade():
    op.execute("ALTER TABLE items ADD COLUMN popularity FLOAT")
    op.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
"""


def next_release(folder: Path) -> Path:
    """A copy of this code with one more migration."""
    for package in ("app", "migrations"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    script = NEXT_MIGRATION.format(head=migrations.head())
    (folder / "migrations" / "versions" / "9999_next_release.py").write_text(script)
    return folder


@pytest.mark.soak
def test_an_upgrade_under_load_fails_no_request(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This release alone, then `palate migrate` of the next one, then both side by side, then the next one alone."""
    new_code = next_release(tmp_path / "new")
    with unmigrated_postgres(request) as url:
        variables = {"PALATE_DATABASE_URL": url, "PALATE_KERNEL_CACHE_DIR": str(tmp_path / "kernels")}
        variables |= {"PALATE_DATA_DIR": str(tmp_path / "data"), "PALATE_TRAINER": "external"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        palate = [sys.executable, "-m", "app.cli"]
        monkeypatch.chdir(REPOSITORY)
        subprocess.run([*palate, "migrate"], check=True)
        for code in (REPOSITORY, new_code):  # so that each starts within its time
            subprocess.run([*palate, "precompile"], cwd=code, check=True)
        loads = []
        with running_service(tmp_path / "data") as old, Load(old.url) as load:
            loads.append(load)
            time.sleep(2)
            monkeypatch.setenv("PYTHONPATH", str(new_code))
            monkeypatch.chdir(new_code)
            subprocess.run([*palate, "migrate"], check=True)
            database = open_database(Settings())
            with database.read() as connection:
                assert migrations.current(connection) == "9999"
            database.dispose()
            with running_service(tmp_path / "data") as new, Load(new.url) as other:
                loads.append(other)
                time.sleep(3)
        for load in loads:
            assert len(load.acknowledged) > 20
            assert not load.failed
            assert {(what, status) for _, _, what, status, _ in load.answers if status >= 300} <= {("similar", 404)}
