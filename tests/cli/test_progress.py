"""What the progress bars of searches show."""

import pytest

from app.cli.progress import parameters_text, task_progress, trial_bar
from app.engine.search.trials import Trial


def trial(number: int, value: float) -> Trial:
    return Trial(number, {"n_factors": 8, "learning_rate": 0.0123456}, "complete", value, 1.0)


def test_a_trial_is_printed_when_it_is_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    with task_progress() as progress:
        show = trial_bar(progress, 3)
        trials = [trial(0, 0.9), trial(1, 1.1), trial(2, 0.8)]
        for n_trials in (1, 2, 3, 3):
            show(trials[:n_trials])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial ")]
    assert lines == [
        "trial   0  0.9000  n_factors=8 learning_rate=0.01235",
        "trial   2  0.8000  n_factors=8 learning_rate=0.01235",
    ]


def test_parameters_are_written_as_options_with_four_digits() -> None:
    assert parameters_text({"n_factors": 8, "loss": "huber", "step": 1 / 3}) == "n_factors=8 loss=huber step=0.3333"
