"""`palate tune` as its user sees it."""

import shlex
from pathlib import Path

import pytest

from app.db.engine import open_database
from app.registry import versions
from app.settings import Settings
from tests.cli.runner import RATINGS, palate, refusal
from tests.training.world import fill

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
    loss_options = ("--loss", "abs(r - r_hat)", "--penalty", "elastic_net", "--loss-parameter", "l1_share=0.2")
    options = ("--trials", "2", "--plot", tmp_path / "trials.svg")
    done = palate("--data-dir", sqlite_settings.data_dir, "tune", "random", *options, *losses, *loss_options)
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


def test_an_unfinished_search_is_resumed_by_its_number(sqlite_settings: Settings, tmp_path: Path) -> None:
    from tests.tuning.world import GRID, enqueue, search_of, spec

    database = open_database(sqlite_settings)
    fill(database)
    left = enqueue(database, spec(GRID, strategy="grid"))
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
        (("grid", "--space", "learning_rate=0.1..0.2"), "needs a step or choices in a grid"),
        (("--set", "n_epochs=0"), "n_epochs must be a whole number"),
    ],
)
def test_an_invalid_search_space_is_refused_in_one_line(options: tuple[str, ...], complaint: str) -> None:
    palate("import", "-", stdin=RATINGS)
    assert complaint in refusal(palate("tune", *options), 2)
