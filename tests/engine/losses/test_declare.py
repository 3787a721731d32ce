import pytest

from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss


def test_an_error_must_depend_on_the_prediction():
    with pytest.raises(InvalidLoss, match="does not depend on r_hat"):
        declare("r**2")


@pytest.mark.parametrize(
    "name", ["r", "theta", "low", "abs", "__class__", "a__b", "", "Delta", "d" * 41, "d\u00e9", "if x"]
)
def test_a_parameter_needs_a_name_that_means_nothing_else(name):
    with pytest.raises(InvalidLoss, match="cannot be used"):
        declare("r_hat", parameters={name: 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31, True, "1", None])
def test_a_parameter_is_a_number(value):
    with pytest.raises(InvalidLoss, match="must be a number"):
        declare("delta * (r - r_hat)**2", parameters={"delta": value})


def test_a_parameter_that_no_text_calls_is_a_mistake():
    with pytest.raises(InvalidLoss, match="the parameter delt is not used"):
        declare("huber", parameters={"delt": 2.0})


def test_named_losses_have_defaults_that_can_be_replaced():
    assert declare("huber").parameters == (("delta", 1.0),)
    assert declare("huber", parameters={"delta": 2}).parameters == (("delta", 2),)
    assert declare("huber", penalty="elastic_net").names == {"delta": 1.0, "l1_share": 0.5}


def test_a_link_must_be_known_and_a_sigmoid_needs_a_range():
    with pytest.raises(InvalidLoss, match="the link 'probit' is not known"):
        declare(link="probit")
    with pytest.raises(InvalidLoss, match="needs a rating range"):
        declare(link="sigmoid")
    with pytest.raises(InvalidLoss, match="is empty"):
        declare(link="sigmoid", rating_range=(5, 5))
