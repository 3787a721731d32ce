import pytest

from app.engine.losses.declare import declare
from app.engine.recipe import Recipe
from app.engine.search.optuna_study import N_CHECKPOINTS
from app.engine.search.run import run_search, run_trial
from app.engine.search.space import parse_space
from app.engine.search.trials import Search, Trial, best_of
from app.engine.sgd.local import LocalTrainer
from tests.conftest import KERNELS
from tests.engine.search.world import BASE, LOSS_SPACE, RECIPE, SPACE, random_folds, trainer_of, trial, world


def test_a_search_lowers_the_error_and_a_resumed_one_does_the_same_trials() -> None:
    folds = random_folds(world(), 2, 0.1, 0)
    search = Search(space=SPACE, n_trials=12, seed=1)
    seen: list[Trial] = []
    done = run_search(trainer_of, folds, RECIPE, search, on_trial=seen.append)
    assert seen == done
    best = best_of(done)
    assert best is not None
    assert best.value is not None
    assert best.value < 0.75
    resumed = run_search(trainer_of, folds, RECIPE, search, trials=done[:7])
    assert [(each.parameters, each.value, each.status) for each in resumed] == [
        (each.parameters, each.value, each.status) for each in done
    ]


def test_a_complete_trial_has_the_mean_of_its_folds_and_a_falling_curve() -> None:
    folds = random_folds(world(), 3, 0.1, 0)
    trainer = LocalTrainer(1, KERNELS)
    made = run_trial(trainer_of, folds, RECIPE, Search(space=SPACE), {"learning_rate": 0.1}, [])
    lowest = [
        min(
            report.holdout_rmse or 9.0
            for report in trainer.fit(*pair[:1], BASE.replace(learning_rate=0.1), holdout=pair[1]).epochs
        )
        for pair in folds
    ]
    assert made.value == pytest.approx(sum(lowest) / 3, rel=1e-12)
    assert len(made.curve) == N_CHECKPOINTS
    assert sorted(made.curve, reverse=True) == list(made.curve)
    assert made.curve[-1] == pytest.approx(lowest[0])


def test_losses_and_their_numbers_can_be_searched() -> None:
    base = Recipe(BASE, declare("(r - r_hat)**2 / d", penalty="elastic_net", parameters={"d": 3}), (0.5, 5.0))
    search = Search(space=parse_space(LOSS_SPACE, base), n_trials=6, strategy="random", pruning="none", seed=2)
    done = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), base, search)
    assert {each.status for each in done} == {"complete"}
    assert done[0].parameters["loss"] == "(r - r_hat)**2 / d"
    assert len({each.parameters["loss"] for each in done}) >= 3
    again = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), base, search, trials=done[:2])
    assert [each.value for each in again] == [each.value for each in done]


def test_a_loss_that_is_undefined_on_these_ratings_fails_its_trial_and_not_the_search() -> None:
    space = parse_space({"loss": {"choices": ["squared", "log(r_hat - 3) * (r - r_hat)**2"]}})
    search = Search(space=space, strategy="grid")
    first, second = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), RECIPE, search)
    assert (first.status, second.status, second.value) == ("complete", "failed", None)
    assert "this takes the logarithm" in (second.error or "")


def test_a_trial_that_lags_behind_the_others_is_pruned_and_has_the_lowest_error_so_far() -> None:
    better = [trial(number, 0.1, (0.1,) * N_CHECKPOINTS) for number in range(6)]
    folds = random_folds(world(), 1, 0.2, 0)
    pruned = run_trial(trainer_of, folds, RECIPE, Search(space=SPACE), {}, better)
    assert (pruned.status, len(pruned.curve), pruned.value) == ("pruned", 3, pruned.curve[-1])
    unpruned = run_trial(trainer_of, folds, RECIPE, Search(space=SPACE, pruning="none"), {}, better)
    assert (unpruned.status, unpruned.curve[:3]) == ("complete", pruned.curve)
