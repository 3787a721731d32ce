import pytest

from app.engine.hyperparameters import Hyperparameters
from app.engine.recipe import Recipe
from app.engine.search.propose import propose
from app.engine.search.space import DEFAULT_SPACE, parse_space
from app.engine.search.trials import Search, Trial
from tests.engine.search.world import BASE, RECIPE, SPACE, trial


def test_a_grid_steps_through_its_points_in_order_and_ends() -> None:
    space = parse_space({"n_factors": {"low": 2, "high": 4}, "learning_rate": {"low": 0.1, "high": 0.31, "step": 0.1}})
    search = Search(space=space, strategy="grid", n_trials=100)
    done: list[Trial] = []
    while (parameters := propose(search, RECIPE, done)) is not None:
        done.append(trial(len(done), 1.0, **parameters))
    assert search.n_planned == len(done) == 9
    assert [each.parameters["learning_rate"] for each in done[:4]] == [0.1, 0.2, 0.3, 0.1]
    assert [each.parameters["n_factors"] for each in done] == [2, 2, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_what_a_trial_tries_depends_only_on_the_seed_and_the_trials_before(strategy) -> None:
    before = [trial(number, 1.0 + number % 3) for number in range(15)]
    search = Search(space=SPACE, strategy=strategy, seed=5)
    first, second = propose(search, RECIPE, before), propose(search, RECIPE, list(before))
    assert first == second
    assert first != propose(Search(space=SPACE, strategy=strategy, seed=6), RECIPE, before)
    assert first != propose(search, RECIPE, before[:-1])


def test_random_trials_do_not_depend_on_results_but_tpe_learns_from_them() -> None:
    def results(sign: int) -> list[Trial]:
        made = [
            propose(Search(space=SPACE, strategy="random"), RECIPE, [trial(n, 1.0) for n in range(number)])
            for number in range(30)
        ]
        return [trial(n, sign * float(each["learning_rate"]), **each) for n, each in enumerate(made)]  # type: ignore

    def mean_rate(strategy, done: list[Trial]) -> float:
        rates = [propose(Search(space=SPACE, strategy=strategy, seed=s), RECIPE, done) for s in range(20)]
        return sum(float(each["learning_rate"]) for each in rates) / len(rates)  # type: ignore

    low_is_good, high_is_good = results(1), results(-1)
    assert mean_rate("random", low_is_good) == mean_rate("random", high_is_good)
    assert mean_rate("tpe", low_is_good) < 0.5 * mean_rate("tpe", high_is_good)


def test_tpe_avoids_values_near_failed_trials() -> None:
    space = parse_space({"learning_rate": {"low": 0.01, "high": 0.2}})
    rates = [round(0.01 + 0.19 * n / 24, 6) for n in range(25)]
    done = [trial(n, None if rate > 0.1 else 1.0, learning_rate=rate) for n, rate in enumerate(rates)]
    proposed = [propose(Search(space=space, seed=seed), RECIPE, done) for seed in range(20)]
    assert sum(float(each["learning_rate"]) > 0.1 for each in proposed) <= 4  # type: ignore


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_every_value_lies_in_the_space(strategy) -> None:
    done: list[Trial] = []
    while (parameters := propose(Search(space=SPACE, strategy=strategy, n_trials=25), RECIPE, done)) is not None:
        BASE.replace(**parameters)
        assert 0.01 <= float(parameters["learning_rate"]) <= 0.2  # type: ignore[arg-type]
        assert parameters["n_factors"] in range(2, 17)
        assert parameters["schedule"] in ("linear", "constant")
        assert round(float(parameters["reg_bias"]), 9) in (0.01, 0.11, 0.21, 0.31)  # type: ignore[arg-type]
        done.append(trial(len(done), 1.0, **parameters))
    assert len(done) == 25


def test_the_values_of_the_base_are_tried_first_if_the_space_contains_them() -> None:
    assert propose(Search(space=SPACE), RECIPE, []) == {
        "learning_rate": BASE.learning_rate,
        "n_factors": 4,
        "schedule": "linear",
        "reg_bias": 0.11,
    }
    outside = propose(Search(space=SPACE), Recipe(BASE.replace(n_factors=64)), [])
    assert outside is not None
    assert outside["learning_rate"] != BASE.learning_rate


def test_the_default_space_can_be_searched() -> None:
    assert propose(Search(space=parse_space(DEFAULT_SPACE)), Recipe(Hyperparameters()), []) is not None
