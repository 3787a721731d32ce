import numpy as np

from app.engine.retrieval.build_index import LEAST_ITEMS, build_arrays, check_arrays, n_lead_of
from tests.engine.worlds import model_of


def model(n_items, k=8):
    rng = np.random.default_rng(0)
    return model_of(rng.normal(size=(n_items, k)), item_bias=rng.normal(size=n_items))


def test_every_item_has_one_position_and_the_rest_is_padding():
    arrays = build_arrays(model(700), None)
    order = arrays["order"]
    assert sorted(order[order >= 0].tolist()) == list(range(700))
    assert (order[700:] == -1).all()
    check_arrays(model(700), arrays)


def test_items_without_bounds_are_outliers_with_no_position():
    wild = model(700)
    wild.item_factors[5] = 1e20
    wild.item_bias[9] = np.nan
    arrays = build_arrays(wild, None)
    assert arrays["outliers"].tolist() == [5, 9]
    assert not np.isin(arrays["order"], [5, 9]).any()


def test_too_few_items_or_factors_have_no_index():
    assert build_arrays(model(LEAST_ITEMS - 1), None) is None
    assert build_arrays(model(700, k=3), None) is None


def test_the_first_stage_holds_all_factors_where_there_is_no_second():
    arrays = build_arrays(model(700), 8)
    assert arrays["whole"].size == 0
    assert n_lead_of(8, arrays) == 8
