"""Every command opens the database in the same way."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, inspect, make_url, text

from tests.cli.runner import RATINGS, palate, refusal


@pytest.fixture
def empty_postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A PostgreSQL database without any table, which the commands are options to use."""
    name = f"palate_cli_{uuid4().hex[:12]}"
    server = create_engine(make_url(postgres_url), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = server.url.set(database=name)
    monkeypatch.setenv("PALATE_DATABASE_URL", url.render_as_string(hide_password=False))
    engine = create_engine(url)
    yield engine
    engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.mark.parametrize(
    "command", [["serve"], ["import", "-"], ["digest"], ["train"], ["models", "list"]], ids=" ".join
)
def test_only_migrate_changes_the_schema_of_a_server(empty_postgres: Engine, command: list[str]) -> None:
    assert "run `palate migrate` first" in refusal(palate(*command, stdin=RATINGS))
    assert inspect(empty_postgres).get_table_names() == []


def test_after_migrate_the_commands_work_on_a_server(empty_postgres: Engine) -> None:
    assert palate("migrate").exit_code == 0
    assert "3 ratings created" in palate("import", "-", stdin=RATINGS).output
    assert palate("digest").exit_code == 0


@pytest.mark.parametrize(
    "command", ["export -", "digest", "train", "evaluate", "models list", "models activate 1", "models delete 1"]
)
def test_a_command_that_reads_stored_data_creates_no_database(tmp_path: Path, command: str) -> None:
    line = refusal(palate(*command.split()))
    assert line.startswith(f"there is no database at {tmp_path / 'data' / 'palate.db'}")
    assert not (tmp_path / "data").exists()


def test_a_compatible_schema_of_a_newer_release_is_used_and_left_as_it_is(tmp_path: Path) -> None:
    palate("migrate")
    with sqlite3.connect(tmp_path / "data" / "palate.db") as connection:
        connection.execute("UPDATE palate_alembic_version SET version_num = 'from_the_future'")
    connection.close()
    assert palate("digest").exit_code == palate("migrate").exit_code == 0
    with sqlite3.connect(tmp_path / "data" / "palate.db") as connection:
        assert connection.execute("SELECT version_num FROM palate_alembic_version").fetchall() == [("from_the_future",)]
    connection.close()
