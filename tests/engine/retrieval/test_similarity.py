import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.retrieval.brute_force_kernels import cosines
from app.engine.retrieval.similarity import common_direction
from tests.engine.worlds import model_of, random_model


def test_the_cosine_with_the_common_direction_times_its_length_is_the_mean_cosine():
    model = random_model(n_items=50)
    seeds = [3, 7, 20]
    direction, length = common_direction(model, seeds)
    found = np.empty(50, np.float32)
    cosines(direction, model.item_factors, found)
    unit = model.item_factors / np.linalg.norm(model.item_factors, axis=1, keepdims=True)
    assert length * found == pytest.approx((unit @ unit[seeds].T).mean(axis=1), abs=1e-6)


def test_a_long_vector_counts_no_more_than_a_short_one():
    direction, _ = common_direction(model_of([[100, 0], [0, 1]]), [0, 1])
    assert direction == pytest.approx([0.5, 0.5])


def test_one_item_points_where_it_points():
    direction, length = common_direction(model_of([[3, 4], [0, 1]]), [0])
    assert direction == pytest.approx([0.6, 0.8])
    assert length == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [[], [-1], [2], [0, 1]])
def test_items_without_a_direction_of_their_own_or_together_have_none(rows):
    direction, length = common_direction(model_of([[1, 0], [-1, 0], [0, 0]]), rows)
    assert (direction.tolist(), length) == ([0.0, 0.0], 0.0)


def test_a_row_outside_the_model_is_refused():
    with pytest.raises(InvalidArray, match="item_rows"):
        common_direction(model_of([[1, 0]]), [1])
