"""The first key of a migration."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.api_keys import keys
from app.cli.__main__ import app
from app.db.engine import open_database
from app.settings import Settings
from tests.conftest import KERNELS


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(KERNELS))
    monkeypatch.setenv("PALATE_TRAINER", "external")


def palate(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


def test_a_migration_makes_the_first_key_once(tmp_path: Path) -> None:
    file = tmp_path / "first-key"
    output = palate("migrate", "--first-key", file).output
    token = file.read_text().strip()
    assert token not in output
    file.unlink()
    assert "first" not in palate("migrate", "--first-key", file).output
    assert not file.exists()
    database = open_database(Settings())
    with database.read() as connection:
        [row] = keys.active(connection)
    database.dispose()
    assert (row.scopes, row.digest) == (["admin"], keys.digest_of(token))


def test_where_the_first_key_cannot_be_written_there_is_none(tmp_path: Path) -> None:
    refused = palate("migrate", "--first-key", tmp_path / "missing" / "key")
    assert refused.exit_code == 1
    assert "No such file" in refused.stderr
    assert palate("migrate", "--first-key", tmp_path / "key").exit_code == 0
    assert (tmp_path / "key").exists()
