import pytest

from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter
from app.engine.losses.declare import declare
from app.engine.losses.grammar import InvalidLoss
from app.engine.recipe import Recipe

PLAIN = Recipe(Hyperparameters(), rating_range=(1.0, 5.0))
HUBER = Recipe(Hyperparameters(), declare("huber", penalty="elastic_net", parameters={"delta": 2, "l1_share": 0.1}))


def test_values_go_to_their_places() -> None:
    made = PLAIN.with_values({"n_factors": 8, "loss": "huber", "loss.delta": 0.5})
    assert made.hyperparameters == Hyperparameters(n_factors=8)
    assert made.loss == declare("huber", parameters={"delta": 0.5})
    assert PLAIN.with_values({}) == PLAIN


def test_a_number_of_the_loss_changes_without_the_rest_of_it() -> None:
    made = HUBER.with_values({"loss.delta": 0.5})
    assert made.loss == declare("huber", penalty="elastic_net", parameters={"delta": 0.5, "l1_share": 0.1})
    declared = Recipe(Hyperparameters(), declare("(r - r_hat)**2 / d", link="exp", parameters={"d": 2}))
    assert declared.with_values({"loss.d": 3}).loss == declare("(r - r_hat)**2 / d", link="exp", parameters={"d": 3})


def test_another_error_keeps_the_penalty_and_brings_its_own_link_and_numbers() -> None:
    assert HUBER.with_values({"loss": "log_cosh"}).loss == declare(
        "log_cosh", penalty="elastic_net", parameters={"l1_share": 0.1}
    )
    assert PLAIN.with_values({"loss": "logistic"}).loss == declare("logistic", rating_range=(1, 5))
    assert HUBER.with_values({"loss": "poisson"}).loss.link == "exp"


def test_the_same_error_keeps_everything() -> None:
    assert HUBER.with_values({"loss": "huber"}) == HUBER
    linked = Recipe(Hyperparameters(), declare("squared", link="sigmoid", rating_range=(1, 5)))
    assert linked.with_values({"loss": "squared"}) == linked


def test_numbers_that_a_loss_does_not_name_are_left_out() -> None:
    assert PLAIN.with_values({"loss": "squared", "loss.delta": 0.5}) == PLAIN
    assert HUBER.with_values({"loss.l1_share": 0.9, "loss.width": 3}).loss.names == {"delta": 2, "l1_share": 0.9}


def test_values_are_read_as_they_are_written() -> None:
    names = ("loss", "loss.delta", "loss.width", "n_factors")
    assert [HUBER.value_of(name) for name in names] == ["huber", 2, None, 64]
    assert Recipe(Hyperparameters(), declare("abs(r - r_hat)")).value_of("loss") == "abs(r - r_hat)"


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidHyperparameter):
        PLAIN.with_values({"n_factors": 0})
    with pytest.raises(InvalidLoss):
        PLAIN.with_values({"loss": "cauchy"})


@pytest.mark.parametrize("recipe", [PLAIN, HUBER, PLAIN.with_values({"loss": "logistic"})])
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_dict(recipe.to_dict()) == recipe
