import numpy as np
import optuna
import pytest

from app.engine.search.optuna_study import N_CHECKPOINTS, pruning_study
from app.engine.search.trials import Pruning, Search, Trial
from tests.engine.search.world import SPACE, trial


def n_checkpoints(pruning: Pruning, curve: list[float], earlier: list[Trial]) -> int:
    """After how many checkpoints a trial with this curve ends."""
    return _length(pruning_study(Search(space=SPACE, pruning=pruning), earlier).ask(), curve)


def _length(running: optuna.Trial, curve: list[float]) -> int:
    for at, value in enumerate(curve[:-1], start=1):
        running.report(value, at)
        if running.should_prune():
            return at
    return N_CHECKPOINTS


def flat(value: float) -> list[float]:
    return [value] * N_CHECKPOINTS


def complete(*values: float) -> list[Trial]:
    return [trial(number, value, tuple(flat(value))) for number, value in enumerate(values)]


def test_nothing_is_pruned_without_pruning() -> None:
    assert n_checkpoints("none", flat(9.0), complete(*range(1, 7))) == N_CHECKPOINTS


def test_median_prunes_what_is_above_it_after_five_trials_and_three_checkpoints() -> None:
    assert n_checkpoints("median", flat(3.1), complete(1, 2, 3, 4, 5)) == 3
    assert n_checkpoints("median", flat(3.0), complete(1, 2, 3, 4, 5)) == N_CHECKPOINTS
    assert n_checkpoints("median", flat(9.0), complete(1, 2, 3, 4)) == N_CHECKPOINTS
    assert n_checkpoints("median", [9.0] * 6 + [1.0] * 4, complete(1, 2, 3, 4, 5)) == 3


def test_halving_prunes_what_is_not_in_the_better_half_at_two_four_and_eight_checkpoints() -> None:
    assert n_checkpoints("halving", flat(2.1), complete(1, 2, 3)) == 2
    assert n_checkpoints("halving", flat(2.0), complete(1, 2, 3)) == N_CHECKPOINTS
    assert n_checkpoints("halving", [1.0] * 2 + [9.0] * 8, complete(1, 2, 3)) == 4
    assert n_checkpoints("halving", [1.0] * 4 + [9.0] * 6, complete(1, 2, 3)) == 8
    assert n_checkpoints("halving", [1.0] * 8 + [9.0] * 2, complete(1, 2, 3)) == N_CHECKPOINTS


def test_halving_lets_the_first_trial_pass_and_the_second_only_if_it_is_better() -> None:
    assert n_checkpoints("halving", flat(9.0), []) == N_CHECKPOINTS
    assert n_checkpoints("halving", flat(9.0), complete(1)) == 2
    assert n_checkpoints("halving", flat(0.9), complete(1)) == N_CHECKPOINTS


@pytest.mark.parametrize(
    ("pruning", "pruner"),
    [
        ("median", optuna.pruners.MedianPruner(5, n_warmup_steps=3)),
        ("halving", optuna.pruners.SuccessiveHalvingPruner(2, reduction_factor=2)),
    ],
)
def test_a_study_made_anew_prunes_as_one_that_lives_through_the_search(
    pruning: Pruning, pruner: optuna.pruners.BasePruner
) -> None:
    generator = np.random.default_rng(0)
    living = optuna.create_study(pruner=pruner)
    earlier: list[Trial] = []
    lengths = set()
    for number in range(40):
        curve = np.minimum.accumulate(generator.random(N_CHECKPOINTS)).tolist()
        running = living.ask()
        length = _length(running, curve)
        assert n_checkpoints(pruning, curve, earlier) == length
        is_complete = length == N_CHECKPOINTS
        state = optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.PRUNED
        living.tell(running, curve[length - 1] if is_complete else None, state)
        status = "complete" if is_complete else "pruned"
        values = trial(number, 1.0).parameters
        earlier.append(Trial(number, values, status, curve[length - 1], 1.0, tuple(curve[:length])))
        lengths.add(length)
    assert len(lengths) > 1
