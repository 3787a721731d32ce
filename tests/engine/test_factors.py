import dataclasses

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.factors import FactorModel
from tests.engine.worlds import random_model, random_posterior


def test_a_model_comes_back_from_its_arrays_as_read_only_maps(tmp_path):
    model = random_model()
    for name, array in model.arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {path.stem: np.load(path, mmap_mode="r") for path in tmp_path.glob("*.npy")}
    again = FactorModel.from_arrays(mapped)
    assert again.digest() == model.digest()
    assert np.shares_memory(again.item_factors, mapped["item_factors"])


def test_one_changed_bit_changes_the_digest():
    model = random_model()
    changed = model.item_factors.copy()
    changed.view(np.int32)[0, 0] ^= 1
    assert dataclasses.replace(model, item_factors=changed).digest() != model.digest()
    assert dataclasses.replace(model, noise_variance=0.5000001).digest() != model.digest()


def test_a_prediction_is_the_sum_of_mean_biases_and_product():
    model = random_model()
    predicted = model.predict(np.array([0, 4], np.int32), np.array([3, 7], np.int32))
    expected = [
        model.mean
        + model.user_bias[u]
        + model.item_bias[i]
        + model.user_factors[u].astype(float) @ model.item_factors[i].astype(float)
        for u, i in ((0, 3), (4, 7))
    ]
    assert predicted == pytest.approx(expected, rel=1e-6)


def test_predicting_for_a_row_outside_the_model_is_refused():
    with pytest.raises(InvalidArray, match="user_rows holds row 5"):
        random_model(n_users=5).predict(np.array([5], np.int32), np.array([0], np.int32))


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("item_bias", None, "is missing"),
        ("item_bias", np.zeros(40), "must be 1-d float32"),
        ("item_bias", np.zeros(39, np.float32), r"must have shape \(40,\)"),
        ("item_factors", np.zeros((6, 40), np.float32).T, "must be in C order"),
        ("user_prior_covariance", np.zeros((6, 6)), r"must have shape \(7, 7\)"),
    ],
)
def test_arrays_that_are_no_model_are_refused_by_name(name, array, what):
    arrays = random_model().arrays()
    arrays.pop(name)
    if array is not None:
        arrays[name] = array
    with pytest.raises(InvalidArray, match=f"^{name} {what}"):
        FactorModel.from_arrays(arrays)


def test_a_model_comes_back_with_its_posterior_and_one_without_stays_without():
    plain = random_model(k=3)
    averaged = dataclasses.replace(plain, posterior=random_posterior(plain))
    again = FactorModel.from_arrays(averaged.arrays())
    assert again.posterior is not None
    np.testing.assert_array_equal(again.posterior.implicit_factors, averaged.posterior.implicit_factors)
    assert again.digest() == averaged.digest() != plain.digest()
    assert FactorModel.from_arrays(plain.arrays()).posterior is None


def test_half_a_posterior_is_refused():
    plain = random_model(k=3)
    arrays = dataclasses.replace(plain, posterior=random_posterior(plain)).arrays()
    del arrays["posterior_reach"]
    with pytest.raises(InvalidArray, match="posterior_reach"):
        FactorModel.from_arrays(arrays)
