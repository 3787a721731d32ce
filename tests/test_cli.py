"""The `palate` command as its user sees it: what it prints, its exit code, and never a traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.database import open_database
from app.registry import versions
from app.settings import Settings
from tests.conftest import KERNELS
from tests.training.world import fill

RATINGS = "ann,dune,4\nann,heat,3\nbob,dune,1\n"
QUICK = ("--set", "n_factors=4", "--set", "n_epochs=3")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings reach a command through variables; --data-dir sets one, which must not outlive the test."""
    monkeypatch.setenv("PALATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PALATE_KERNEL_CACHE_DIR", str(KERNELS))


def palate(*arguments: str | Path, told: str = "") -> Result:
    """What came of a command in this process; an exception that it did not answer fails the test."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments], input=told)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_training_and_the_list_of_versions_show_the_error_on_the_hold_out(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    trained = palate("--data-dir", sqlite_settings.data_dir, "train", *QUICK)
    with database.read() as connection:
        [row] = versions.history(connection, limit=10)
    database.dispose()
    rmse = f"{row.manifest['metrics']['holdout_rmse']:.4f}"
    assert trained.output.rstrip().endswith(f"ratings, hold-out RMSE {rmse}")
    [line] = re.findall(r"^.*\(active\).*$", palate("models", "list").output, re.MULTILINE)
    assert rmse in line


def test_without_a_hold_out_no_error_is_shown(tmp_path: Path) -> None:
    palate("import", written(tmp_path / "ratings.csv", RATINGS))
    assert palate("train", *QUICK).output.rstrip().endswith("3 ratings")
    [line] = re.findall(r"^.*\(active\).*$", palate("models", "list").output, re.MULTILINE)
    assert re.split(r" *[│┃] *", line)[5] == "-"
