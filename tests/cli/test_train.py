"""`palate train` and `palate evaluate` as their user sees them."""

import re
from pathlib import Path

from app.db.engine import open_database
from app.registry import versions
from app.settings import Settings
from tests.cli.runner import QUICK, RATINGS, palate, refusal, written
from tests.training.world import fill


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
    assert re.search(rf"on held-out ratings\W+version {oldest.version}\W+version {newest.version} \(active\)", both)
    assert refusal(palate("evaluate", "99")) == "model version 99 does not exist"


def test_a_loss_is_declared_on_the_command_line(sqlite_settings: Settings) -> None:
    database = open_database(sqlite_settings)
    fill(database)
    options = ("--loss", "log(cosh((r - r_hat) / width))", "--loss-parameter", "width=0.5", "--penalty", "elastic_net")
    trained = palate("--data-dir", sqlite_settings.data_dir, "train", *QUICK, *options)
    assert trained.exit_code == 0, trained.output
    with database.read() as connection:
        [row] = versions.history(connection, limit=10)
    database.dispose()
    assert row.manifest["loss"]["error"] == "log(cosh((r - r_hat) / width))"
    assert row.manifest["loss"]["parameters"] == {"l1_share": 0.5, "width": 0.5}


def test_an_invalid_loss_is_refused_with_the_position_of_the_error(sqlite_settings: Settings) -> None:
    refused = palate("--data-dir", sqlite_settings.data_dir, "train", "--loss", "(r - r_hat)**2 + sin(r)")
    assert refused.exit_code == 2
    assert "the function sin is not known at character 18" in refused.output


def test_without_a_hold_out_no_error_is_shown(tmp_path: Path) -> None:
    palate("import", written(tmp_path / "ratings.csv", RATINGS))
    assert palate("train", *QUICK).output.rstrip().endswith("3 ratings")
    [line] = re.findall(r"^.*\(active\).*$", palate("models", "list").output, re.MULTILINE)
    assert re.split(r" *[│┃] *", line)[5] == "-"
