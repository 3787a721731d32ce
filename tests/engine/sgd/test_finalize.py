import pytest

from app.engine.data.ratings import Ratings
from app.engine.hyperparameters import Hyperparameters
from app.engine.sgd.local import LocalTrainer
from tests.conftest import KERNELS
from tests.engine.worlds import planted


def test_rows_without_ratings_are_average():
    ratings = planted().ratings
    wider = Ratings.of(ratings.user_rows, ratings.item_rows, ratings.values, n_users=301, n_items=201)
    settings = Hyperparameters(n_factors=8, n_epochs=5, learning_rate=0.05, regularization=0.01, reg_bias=0.01)
    model = LocalTrainer(1, KERNELS).fit(wider, settings).model
    assert model.item_bias[200] == pytest.approx(model.item_bias[:200].mean(), abs=1e-5)
    assert not model.item_factors[200].any()
    assert model.user_bias[300] == pytest.approx(model.user_prior.mean[0])
