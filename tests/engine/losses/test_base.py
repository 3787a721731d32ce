import numpy as np
import pytest

from app.engine.losses.base import Loss
from app.engine.losses.declare import declare


def test_a_loss_survives_json():
    loss = declare("logistic", penalty="elastic_net", rating_range=(0, 5))
    assert Loss.from_dict(loss.to_dict()) == loss


@pytest.mark.parametrize("link", ["identity", "sigmoid", "exp"])
def test_the_slope_of_a_link_is_its_derivative(link):
    loss = declare("squared", link=link, rating_range=(1.0, 5.0))
    scores = np.linspace(-3, 3, 13)
    rises = (loss.rating_of(scores + 1e-5) - loss.rating_of(scores - 1e-5)) / 2e-5
    np.testing.assert_allclose(loss.rating_slope_of(scores), rises, rtol=1e-6)
