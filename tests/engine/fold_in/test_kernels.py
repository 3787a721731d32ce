import numpy as np

from app.engine.fold_in.kernel_model import KernelModel
from app.engine.fold_in.kernels import item_vectors, predict_with_intervals
from tests.engine.worlds import random_model


def test_the_vector_of_an_item_begins_with_one_and_that_of_an_unknown_item_ends_there():
    model = random_model()
    y, is_known = np.empty((3, 7)), np.empty(3, np.bool_)
    item_vectors(KernelModel(model).record, np.array([4, -1, 0], np.int32), y, is_known)
    assert is_known.tolist() == [True, False, True]
    assert y[:, 0].tolist() == [1, 1, 1]
    assert y[:, 1:].tolist() == [model.item_factors[4].tolist(), [0] * 6, model.item_factors[0].tolist()]


def test_rows_out_of_range_are_refused_and_nothing_is_written():
    kernel_model, predictions = KernelModel(random_model(n_items=40)), np.full((3, 1), 7.0)
    user = np.zeros(6, np.float32), 0.0, np.eye(7), 1.0
    for row in (40, -2):
        rows = np.array([row], np.int32)
        intervals = np.ones(2), np.array([1])
        assert not predict_with_intervals(kernel_model.record, *user, rows, *intervals, predictions)
    assert (predictions == 7.0).all()
