"""The `palate` command as its user sees it: what it prints, its exit code, and never a traceback."""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, inspect, make_url, text
from typer.testing import CliRunner, Result

from app.cli.commands import app
from app.db.engine import open_database
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


def test_evaluate_shows_a_version_and_the_active_one_beside_it(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    for _ in range(2):
        palate("--data-dir", sqlite_settings.data_dir, "train", *QUICK)
    with database.read() as connection:
        newest, oldest = versions.history(connection, limit=10)
    database.dispose()
    biases = newest.manifest["metrics"]["report"]["baselines"]["biases"]["rmse"]
    assert re.search(rf"RMSE, biases\s+│\s+{biases:.4f} │$", palate("evaluate").output, re.MULTILINE)
    both = palate("evaluate", str(oldest.version)).output
    assert re.search(rf"on ratings held out\W+version {oldest.version}\W+version {newest.version} \(active\)", both)
    assert refusal(palate("evaluate", "99")) == "model version 99 does not exist"


def test_a_loss_is_declared_on_the_command_line(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    told = ("--loss", "log(cosh((r - r_hat) / width))", "--loss-parameter", "width=0.5", "--penalty", "elastic_net")
    trained = palate("--data-dir", sqlite_settings.data_dir, "train", *QUICK, *told)
    assert trained.exit_code == 0, trained.output
    with database.read() as connection:
        [row] = versions.history(connection, limit=10)
    database.dispose()
    assert row.manifest["loss"]["error"] == "log(cosh((r - r_hat) / width))"
    assert row.manifest["loss"]["parameters"] == {"l1_share": 0.5, "width": 0.5}


def test_a_loss_that_cannot_be_is_told_with_its_position(sqlite_settings: Settings) -> None:
    refused = palate("--data-dir", sqlite_settings.data_dir, "train", "--loss", "(r - r_hat)**2 + sin(r)")
    assert refused.exit_code == 2
    assert "the function sin is not known at character 18" in refused.output


def test_without_a_hold_out_no_error_is_shown(tmp_path: Path) -> None:
    palate("import", written(tmp_path / "ratings.csv", RATINGS))
    assert palate("train", *QUICK).output.rstrip().endswith("3 ratings")
    [line] = re.findall(r"^.*\(active\).*$", palate("models", "list").output, re.MULTILINE)
    assert re.split(r" *[│┃] *", line)[5] == "-"


def refusal(result: Result, code: int = 1) -> str:
    """The line that says why a command was refused."""
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", ["serve", "worker", "digest"])
@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("PALATE_DATABASE_URL", "mysql://localhost/name", "must begin with postgresql:// or sqlite:///"),
        ("PALATE_RATING_MIN", "9", "must be below rating max"),
        ("PALATE_HYPERPARAMETERS", "n_factors=8", "hyperparameters"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, command: str, variable: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert complaint in refusal(palate(command), 2)


def test_a_server_started_without_the_command_refuses_settings_in_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_RATING_MIN", "9")
    started = subprocess.run(
        [sys.executable, "-c", "import app.main; app.main.app"], capture_output=True, text=True, check=False
    )
    assert started.returncode == 1
    assert started.stderr.splitlines() == ["PALATE_RATING: rating min 9.0 must be below rating max 5.0"]


@pytest.mark.parametrize("command", ["serve", "digest", "migrate", "train"])
def test_a_database_that_cannot_be_reached_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("PALATE_DATABASE_URL", "postgresql://somebody:secret@127.0.0.1:1/name")
    line = refusal(palate(command))
    assert "port 1 failed" in line
    assert "secret" not in line


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["migrate"], ["import", "-"]], ids=" ".join)
def test_a_folder_of_the_data_that_cannot_be_made_is_told_in_a_line(tmp_path: Path, command: list[str]) -> None:
    file = written(tmp_path / "file", "")
    assert str(file) in refusal(palate("--data-dir", file, *command))
    assert str(file / "below") in refusal(palate("--data-dir", file / "below", *command))


def test_an_export_to_where_nothing_can_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    palate("import", "-", told=RATINGS)
    missing = tmp_path / "missing" / "ratings.csv"
    assert refusal(palate("export", missing)) == f"{missing}: No such file or directory"


def test_a_file_that_is_no_database_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "palate.db", "this is no database\n" * 100)
    assert refusal(palate("digest")) == "the database: file is not a database"


@pytest.fixture
def empty_postgres(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A PostgreSQL database without any table, which the commands are told to use."""
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
    assert "run `palate migrate` first" in refusal(palate(*command, told=RATINGS))
    assert inspect(empty_postgres).get_table_names() == []


def test_after_migrate_the_commands_work_on_a_server(empty_postgres: Engine) -> None:
    assert palate("migrate").exit_code == 0
    assert "3 ratings created" in palate("import", "-", told=RATINGS).output
    assert palate("digest").exit_code == 0


@pytest.mark.parametrize(
    "command", ["export -", "digest", "train", "evaluate", "models list", "models activate 1", "models delete 1"]
)
def test_a_command_that_needs_what_is_stored_makes_no_new_database(tmp_path: Path, command: str) -> None:
    line = refusal(palate(*command.split()))
    assert line.startswith(f"there is no database at {tmp_path / 'data' / 'palate.db'}")
    assert not (tmp_path / "data").exists()


def test_the_schema_of_a_newer_release_is_worked_with_and_left_as_it_is(tmp_path: Path) -> None:
    palate("migrate")
    with sqlite3.connect(tmp_path / "data" / "palate.db") as connection:
        connection.execute("UPDATE palate_alembic_version SET version_num = 'from_the_future'")
    connection.close()
    assert palate("digest").exit_code == palate("migrate").exit_code == 0
    with sqlite3.connect(tmp_path / "data" / "palate.db") as connection:
        assert connection.execute("SELECT version_num FROM palate_alembic_version").fetchall() == [("from_the_future",)]
    connection.close()


def test_an_import_that_is_interrupted_says_what_was_saved(tmp_path: Path) -> None:
    importing = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PALATE_IMPORTS_BATCH_SIZE": "1000"},
        text=True,
    )
    assert importing.stdin is not None
    importing.stdin.write("".join(f"user-{n},dune,4\n" for n in range(100_000)))  # more than a block; no end follows
    importing.stdin.flush()
    wait_for_ratings(tmp_path / "data")
    importing.send_signal(signal.SIGINT)
    output, complaint = importing.communicate(timeout=60)
    saved = int(output.split()[0].replace(",", ""))
    assert importing.returncode == 130
    assert complaint.splitlines() == ["stopped by Ctrl-C; what is counted above is saved"]
    assert output.startswith(f"{saved:,} ratings created, 0 updated, 0 unchanged, 0 bad lines; revision {saved}")
    assert len(palate("export", "-").stdout.splitlines()) == saved > 0


def wait_for_ratings(data_dir: Path) -> None:
    """Until an import has committed something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (data_dir / "palate.db").exists() and '"' in palate("export", "-").stdout:
            return
        time.sleep(0.05)
    pytest.fail("nothing was imported")


def test_the_format_and_the_encoding_of_a_file_can_be_told(tmp_path: Path) -> None:
    movies = tmp_path / "movies.dat"
    movies.write_bytes("1::Misérables, Les::Drama\n".encode("latin-1"))
    assert palate("import-items", movies).output.startswith("0 items created")
    told = ("--encoding", "latin-1", "--format", "double_colon")
    assert palate("import-items", movies, *told).output.startswith("1 items created")
    assert palate("import", "-", *told, told="ann::1::4\n").output.startswith("1 ratings created")
    assert "line 1" in refusal(palate("import", "-", "--format", "tsv", told="ann::1::4\n"))


SPACE = ("--space", "learning_rate=0.01..0.2:log", "--space", "n_factors=2,4", "--set", "n_epochs=4")


def test_a_search_shows_its_best_trials_and_writes_its_plot(sqlite_settings: Settings, tmp_path: Path) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    database.dispose()
    picture = tmp_path / "trials.svg"
    done = palate("--data-dir", sqlite_settings.data_dir, "tune", "random", "--trials", "4", "--plot", picture, *SPACE)
    assert done.exit_code == 0, done.output
    assert "the best of 4 trials" in done.output
    assert "to train it: palate train --set n_factors=" in done.output
    assert "--set learning_rate=" in done.output
    assert picture.read_text().startswith("<svg")


def test_a_search_of_losses_says_how_to_train_its_winner(sqlite_settings: Settings, tmp_path: Path) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    database.dispose()
    losses = ("--space", "loss=huber,log_cosh", "--space", "loss.width=0.5", "--space", "loss.delta=0.5", *SPACE)
    told = ("--loss", "abs(r - r_hat)", "--penalty", "elastic_net", "--loss-parameter", "l1_share=0.2")
    options = ("--trials", "2", "--plot", tmp_path / "trials.svg")
    done = palate("--data-dir", sqlite_settings.data_dir, "tune", "random", *options, *losses, *told)
    assert done.exit_code == 0, done.output
    [_, command] = done.output.rsplit("to train it: palate ", 1)
    assert "--penalty 'l1_share * abs(theta)" in command
    trained = palate("--data-dir", sqlite_settings.data_dir, *shlex.split(command))
    assert "published version 1" in trained.output
    database = open_database(sqlite_settings)
    with database.read() as connection:
        loss = versions.get(connection, 1).manifest["loss"]
    database.dispose()
    assert loss["name"] in ("huber", "log_cosh")
    assert loss["parameters"] == {"l1_share": 0.2, "delta" if loss["name"] == "huber" else "width": 0.5}


def test_a_search_can_publish_its_best(sqlite_settings: Settings, tmp_path: Path) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    options = ("--trials", "2", "--plot", tmp_path / "trials.svg", "--publish")
    done = palate("--data-dir", sqlite_settings.data_dir, "tune", *options, *SPACE)
    assert done.output.rstrip().endswith("search 1 published version 1")
    database.dispose()


def test_a_search_that_was_left_is_resumed_by_its_number(sqlite_settings: Settings, tmp_path: Path) -> None:
    from tests.tuning.world import GRID, ask, search_of, wanted

    database = open_database(sqlite_settings)
    fill(database)
    left = ask(database, wanted(GRID, strategy="grid"))
    palate("--data-dir", sqlite_settings.data_dir, "tune", "--resume", str(left.id), "--plot", tmp_path / "plot.svg")
    assert search_of(database, left.id).status == "succeeded"
    database.dispose()
    again = palate("tune", "--resume", str(left.id))
    assert refusal(again) == "search 1 has already ended: succeeded"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--space", "rank=1,2"), "--space rank: is not a hyperparameter"),
        (("--space", "n_factors"), "write NAME=LOW..HIGH"),
        (("grid", "--space", "learning_rate=0.1..0.2"), "needs a step or choices for a grid"),
        (("--set", "n_epochs=0"), "n_epochs must be a whole number"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_a_line(options: tuple[str, ...], complaint: str) -> None:
    palate("import", "-", told=RATINGS)
    assert complaint in refusal(palate("tune", *options), 2)
