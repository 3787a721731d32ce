import dataclasses

import pytest

from app.engine.hyperparameters import Hyperparameters, InvalidHyperparameter


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("n_factors", 0, "a whole number from 1 to 1024"),
        ("n_factors", 8.0, "a whole number from 1 to 1024"),
        ("n_epochs", True, "a whole number from 1 to 10000"),
        ("learning_rate", float("nan"), "a number from 1e-06 to 1.0"),
        ("learning_rate", "0.1", "a number from 1e-06 to 1.0"),
        ("regularization", -0.1, "a number from 0.0 to 10.0"),
        ("holdout_fraction", 0.9, "a number from 0.0 to 0.5"),
        ("stop_after", 0, "a whole number from 1 to 10000"),
        ("schedule", "cosine", "one of linear, constant"),
        ("momentum", 0.9, "left out"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_with_what_is_allowed(name, value, allowed):
    with pytest.raises(InvalidHyperparameter, match=f"^{name} must be {allowed}") as refusal:
        Hyperparameters.from_dict({name: value})
    assert refusal.value.field == name


def test_a_whole_number_does_for_a_float():
    assert Hyperparameters(regularization=1).regularization == 1


def test_plain_names_and_numbers_come_back():
    chosen = Hyperparameters(n_factors=8, stop_after=3, seed=7, schedule="constant")
    assert Hyperparameters.from_dict(chosen.to_dict()) == chosen
    assert Hyperparameters.from_dict({}) == Hyperparameters()


def test_a_changed_copy_is_checked_too():
    with pytest.raises(InvalidHyperparameter):
        Hyperparameters().replace(seed=-1)


def test_the_linear_schedule_falls_to_zero_just_after_the_last_epoch():
    settings = Hyperparameters(n_epochs=4, learning_rate=0.1)
    assert [settings.learning_rate_of(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert settings.replace(schedule="constant").learning_rate_of(4) == 0.1


def test_stopping_early_leaves_the_schedule_as_it_was():
    settings = Hyperparameters(n_epochs=4, learning_rate=0.1, stop_after=2)
    assert settings.last_epoch == 2
    assert settings.learning_rate_of(2) == pytest.approx(0.075)


def test_every_field_says_what_it_is():
    assert all(field.metadata["doc"] for field in dataclasses.fields(Hyperparameters))
