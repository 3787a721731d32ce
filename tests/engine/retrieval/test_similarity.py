import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.brute_force_kernels import cosines
from app.engine.retrieval.retriever import NO_ROWS, Query
from app.engine.retrieval.similarity import common_direction
from tests.engine.worlds import model_of, random_model


def similar(model, item_row, n, excluded=NO_ROWS):
    direction, _ = common_direction(model, [item_row])
    excluded = np.append(excluded, np.int32(item_row))
    [ranked] = BruteForceRetriever(model).search([Query(direction, excluded=excluded)], n, cosine=True)
    return ranked


def test_similar_items_point_the_same_way_whatever_their_length():
    rows, cosines = similar(model_of([[1, 0], [5, 0.1], [0, 0], [1, 1], [-1, 0], [0.1, 0.02]]), 0, 10)
    assert rows.tolist() == [1, 5, 3, 4]
    assert cosines == pytest.approx([0.9998, 0.98058, 0.70711, -1.0], abs=1e-4)


def test_nothing_is_similar_to_an_item_without_a_direction():
    assert similar(model_of([[0, 0], [1, 0]]), 0, 5)[0].size == 0


def test_similar_items_can_be_excluded():
    assert similar(model_of(np.eye(3) + 0.5), 0, 5, np.array([1], np.int32))[0].tolist() == [2]


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
