import pytest

from app.engine.search.space import InvalidSpace, parse_space
from tests.engine.search.world import RECIPE


@pytest.mark.parametrize(
    ("space", "parameter", "reason"),
    [
        ({}, "space", "at least one"),
        ({"rank": {"choices": [1]}}, "rank", "is not a hyperparameter; they are initial_scale, learning_rate"),
        (
            {"holdout_fraction": {"low": 0.1, "high": 0.2}},
            "holdout_fraction",
            "determines what trials are evaluated on",
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
        ({"schedule": {"low": 1, "high": 2}}, "schedule", "use choices"),
        ({"schedule": {"choices": ["cosine"]}}, "schedule", "one of linear, constant"),
        ({"n_factors": {"choices": []}}, "n_factors", "needs from 1 to 1000 choices"),
        ({"n_factors": {"choices": [4, 4]}}, "n_factors", "contains a choice twice"),
    ],
)
def test_a_space_that_cannot_be_searched_says_where_and_what_is_allowed(space, parameter, reason) -> None:
    with pytest.raises(InvalidSpace) as refused:
        parse_space(space)
    assert refused.value.parameter == parameter
    assert reason in refused.value.reason


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
        ({"loss": {"low": 0, "high": 1}}, "loss", "is not ordered: use choices"),
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
