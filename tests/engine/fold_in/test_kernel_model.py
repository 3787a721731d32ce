import dataclasses

import numpy as np
import pytest

from app.engine.fold_in.kernel_model import KernelModel
from tests.engine.worlds import model_of, random_model, random_posterior


def test_an_unknown_item_has_the_mean_bias_of_the_rated_items_and_their_variance():
    model = model_of(np.zeros((3, 2)), item_bias=[1.0, 0.0, 9.0], item_counts=[5, 1, 0])
    kernel_model = KernelModel(model)
    assert kernel_model.is_known.tolist() == [True, True, False]
    assert (kernel_model.unknown_bias, kernel_model.unknown_variance) == (0.5, 0.25)


def test_in_an_average_every_item_is_known():
    model = model_of(np.zeros((3, 2)), item_counts=[5, 1, 0])
    assert KernelModel(dataclasses.replace(model, posterior=random_posterior(model))).is_known.all()


def test_the_prior_in_information_form_is_that_of_the_model():
    model = random_model()
    kernel_model, precision = KernelModel(model), np.linalg.inv(model.user_prior.covariance)
    assert kernel_model.prior_precision == pytest.approx(precision, rel=1e-4)
    assert kernel_model.prior_information == pytest.approx(precision @ model.user_prior.mean, rel=1e-4)
    assert kernel_model.record["n_items"] == model.n_items
