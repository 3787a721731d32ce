import pytest

from app.engine.losses.base import Loss
from app.engine.losses.catalog import ENTRIES, PENALTIES, SQUARED
from app.engine.losses.declare import declare


@pytest.mark.parametrize("name", PENALTIES)
def test_every_named_penalty_can_be_declared(name):
    assert isinstance(declare(penalty=name), Loss)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_named_loss_is_declared_with_its_link_and_the_defaults_of_its_parameters(entry):
    loss = declare(entry.name, rating_range=(1.0, 5.0))
    assert (loss.error, loss.link, dict(loss.parameters)) == (entry.error, entry.link, entry.parameters)


def test_the_default_is_half_the_squared_error():
    assert declare() == SQUARED
    assert SQUARED.is_squared
