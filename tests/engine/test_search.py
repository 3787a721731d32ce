import pytest

from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.losses.base import Loss
from app.engine.losses.declare import declare
from app.engine.recipe import Recipe
from app.engine.search import (
    DEFAULT_SPACE,
    N_MARKS,
    InvalidSpace,
    Search,
    Trial,
    best_of,
    parse_space,
    propose,
    random_folds,
    run_search,
    run_trial,
)
from app.engine.sgd.local import LocalTrainer
from tests.conftest import KERNELS
from tests.training.world import ratings_of

BASE = Hyperparameters(n_factors=4, n_epochs=10, reg_bias=0.11)
RECIPE = Recipe(BASE, rating_range=(0.5, 5.0))
SPACE = parse_space(
    {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "n_factors": {"low": 2, "high": 16},
        "schedule": {"choices": ["linear", "constant"]},
        "reg_bias": {"low": 0.01, "high": 0.36, "step": 0.1},
    }
)


def trial(number: int, value: float | None, curve: tuple[float, ...] = (), **parameters: object) -> Trial:
    given = parameters or {
        "learning_rate": 0.01 + 0.001 * number,
        "n_factors": 4,
        "schedule": "linear",
        "reg_bias": 0.01,
    }
    return Trial(number, given, "failed" if value is None else "complete", value, 1.0, curve)  # type: ignore[arg-type]


def trainer_of(loss: Loss) -> LocalTrainer:
    return LocalTrainer(1, KERNELS, loss)


def world() -> Ratings:
    stored = ratings_of()
    users = [int(each.user_id.removeprefix("user-")) for each in stored]
    items = [int(each.item_id.removeprefix("item-")) for each in stored]
    return Ratings.of(users, items, [each.value for each in stored], n_users=60, n_items=40)


@pytest.mark.parametrize(
    ("space", "parameter", "reason"),
    [
        ({}, "space", "at least one"),
        ({"rank": {"choices": [1]}}, "rank", "is not a hyperparameter; they are initial_scale, learning_rate"),
        (
            {"holdout_fraction": {"low": 0.1, "high": 0.2}},
            "holdout_fraction",
            "decides what the trials are measured on",
        ),
        ({"n_factors": {"low": 1}}, "n_factors", "needs either low and high"),
        ({"n_factors": {"low": 1, "high": 2, "choices": [1]}}, "n_factors", "needs either low and high"),
        ({"n_factors": {"low": 0, "high": 2}}, "n_factors", "must be a whole number from 1 to 1024, not 0"),
        ({"n_factors": {"low": 8, "high": 8}}, "n_factors", "low must be below high"),
        ({"n_factors": {"low": 1.5, "high": 8}}, "n_factors", "must be a whole number"),
        ({"n_factors": {"low": 1, "high": 8, "step": 0.5}}, "n_factors", "step must be a whole number"),
        (
            {"regularization": {"low": 0.0, "high": 1.0, "log": True}},
            "regularization",
            "above 0 on a logarithmic scale",
        ),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}, "learning_rate", "log or step"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "step": 0.5}}, "learning_rate", "at most high - low"),
        ({"schedule": {"low": 1, "high": 2}}, "schedule", "give choices"),
        ({"schedule": {"choices": ["cosine"]}}, "schedule", "one of linear, constant"),
        ({"n_factors": {"choices": []}}, "n_factors", "needs from 1 to 1000 choices"),
        ({"n_factors": {"choices": [4, 4]}}, "n_factors", "names a choice twice"),
    ],
)
def test_a_space_that_cannot_be_searched_says_where_and_what_is_allowed(space, parameter, reason) -> None:
    with pytest.raises(InvalidSpace) as refused:
        parse_space(space)
    assert refused.value.parameter == parameter
    assert reason in refused.value.reason


def test_a_grid_of_a_range_without_step_is_refused() -> None:
    with pytest.raises(InvalidSpace, match="needs a step or choices for a grid"):
        Search(space=parse_space({"learning_rate": {"low": 0.1, "high": 0.2}}), strategy="grid")


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
def test_what_a_trial_tries_depends_on_the_seed_and_the_trials_before_alone(strategy) -> None:
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


def test_tpe_keeps_away_from_where_trials_failed() -> None:
    space = parse_space({"learning_rate": {"low": 0.01, "high": 0.2}})
    rates = [round(0.01 + 0.19 * n / 24, 6) for n in range(25)]
    done = [trial(n, None if rate > 0.1 else 1.0, learning_rate=rate) for n, rate in enumerate(rates)]
    asked = [propose(Search(space=space, seed=seed), RECIPE, done) for seed in range(20)]
    assert sum(float(each["learning_rate"]) > 0.1 for each in asked) <= 4  # type: ignore


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


def test_what_would_be_done_anyway_is_tried_first_where_it_lies_in_the_space() -> None:
    assert propose(Search(space=SPACE), RECIPE, []) == {
        "learning_rate": BASE.learning_rate,
        "n_factors": 4,
        "schedule": "linear",
        "reg_bias": 0.11,
    }
    outside = propose(Search(space=SPACE), Recipe(BASE.replace(n_factors=64)), [])
    assert outside is not None
    assert outside["learning_rate"] != BASE.learning_rate


def test_the_best_is_the_lowest_complete_trial_and_the_first_of_equals() -> None:
    assert best_of([trial(0, None), trial(1, 2.0), trial(2, 1.0), trial(3, 1.0)]) == trial(2, 1.0)
    assert best_of([trial(0, None)]) is None


def test_a_search_finds_what_suits_the_world_and_goes_on_where_it_was() -> None:
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
    assert len(made.curve) == N_MARKS
    assert sorted(made.curve, reverse=True) == list(made.curve)
    assert made.curve[-1] == pytest.approx(lowest[0])


@pytest.mark.parametrize(("pruning", "expected"), [("none", "complete"), ("median", "pruned"), ("halving", "pruned")])
def test_a_trial_that_lags_behind_the_others_is_ended_early(pruning, expected) -> None:
    better = [trial(number, 0.1, (0.1,) * N_MARKS) for number in range(6)]
    folds = random_folds(world(), 1, 0.2, 0)
    made = run_trial(trainer_of, folds, RECIPE, Search(space=SPACE, pruning=pruning), {}, better)
    assert made.status == expected
    assert (len(made.curve) < N_MARKS) == (expected == "pruned")
    assert made.value is not None


@pytest.mark.parametrize("pruning", ["median", "halving"])
def test_the_first_trials_and_those_that_lead_are_never_ended_early(pruning) -> None:
    folds = random_folds(world(), 1, 0.2, 0)
    for earlier in ([trial(0, 0.1, (0.1,) * N_MARKS)], [trial(n, 9.0, (9.0,) * N_MARKS) for n in range(6)]):
        made = run_trial(trainer_of, folds, RECIPE, Search(space=SPACE, pruning=pruning), {}, earlier)
        assert made.status == "complete"


LOSSES = {
    "loss": {"choices": ["squared", "huber", "logistic", "(r - r_hat)**2 / d"]},
    "loss.delta": {"low": 0.3, "high": 3, "log": True},
}


@pytest.mark.parametrize(
    ("space", "parameter", "reason"),
    [
        ({"loss.delta": {"low": 0.3, "high": 3}}, "loss.delta", "of the losses that are tried; they name none"),
        ({"loss": {"choices": ["huber"]}, "loss.width": {"choices": [1]}}, "loss.width", "they name delta"),
        (
            {"loss": {"choices": ["huber", "cauchy"]}},
            "loss",
            "the loss cauchy is not known at character 1, at 'cauchy'; there are squared, absolute",
        ),
        ({"loss": {"choices": ["r - __import__(1)"]}}, "loss", "the function __import__ is not known"),
        ({"loss": {"choices": [1]}}, "loss", "must be a name or an expression, not 1"),
        ({"loss": {"low": 0, "high": 1}}, "loss", "has no order: give choices"),
        ({"loss": {"choices": ["huber"]}, "loss.delta": {"choices": ["wide"]}}, "loss.delta", "must be a number"),
        ({"loss": {"choices": ["log_cosh"]}, "loss.width": {"low": 0, "high": 1}}, "loss.width", "divides by zero"),
        ({"loss": {"choices": ["logistic"]}, "loss.low": {"low": 0, "high": 1}}, "loss.low", "they name none"),
        ({"loss": {"choices": ["huber"]}, "loss.delta": {"low": 0, "high": 3, "log": True}}, "loss.delta", "above 0"),
    ],
)
def test_losses_that_cannot_be_tried_are_refused_with_the_reason(space, parameter, reason) -> None:
    with pytest.raises(InvalidSpace) as refused:
        parse_space(space, RECIPE)
    assert refused.value.parameter == parameter
    assert reason in refused.value.reason


def test_losses_and_their_numbers_are_searched_like_anything_else() -> None:
    base = Recipe(BASE, declare("(r - r_hat)**2 / d", penalty="elastic_net", parameters={"d": 3}), (0.5, 5.0))
    search = Search(space=parse_space(LOSSES, base), n_trials=6, strategy="random", pruning="none", seed=2)
    done = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), base, search)
    assert {each.status for each in done} == {"complete"}
    assert done[0].parameters["loss"] == "(r - r_hat)**2 / d"
    assert len({each.parameters["loss"] for each in done}) >= 3
    again = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), base, search, trials=done[:2])
    assert [each.value for each in again] == [each.value for each in done]


def test_a_loss_that_is_none_on_these_ratings_fails_its_trial_and_not_the_search() -> None:
    space = parse_space({"loss": {"choices": ["squared", "log(r_hat - 3) * (r - r_hat)**2"]}})
    search = Search(space=space, strategy="grid")
    first, second = run_search(trainer_of, random_folds(world(), 1, 0.2, 0), RECIPE, search)
    assert (first.status, second.status, second.value) == ("complete", "failed", None)
    assert "this takes the logarithm" in (second.error or "")


def test_the_default_space_can_be_searched() -> None:
    assert propose(Search(space=parse_space(DEFAULT_SPACE)), Recipe(Hyperparameters()), []) is not None
