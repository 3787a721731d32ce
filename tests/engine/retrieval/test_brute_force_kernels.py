import numpy as np
import pytest

from app.engine.retrieval.brute_force_kernels import cosines, score_items, select_top


@pytest.mark.parametrize("k", [1, 15, 16, 17, 64])
def test_scores_and_cosines_are_those_of_numpy(k):
    rng = np.random.default_rng(k)
    q, p, b = (rng.normal(size=shape).astype(np.float32) for shape in ((30, k), k, 30))
    q[3] = 0.0
    scores, angles = np.empty(30, np.float32), np.empty(30, np.float32)
    score_items(p, 3.5, q, b, scores)
    cosines(p, q, angles)
    assert scores == pytest.approx(3.5 + b + q @ p, abs=1e-5)
    assert np.flatnonzero(np.isnan(angles)).tolist() == [3]
    others = np.arange(30) != 3
    lengths = np.linalg.norm(q[others], axis=1) * np.linalg.norm(p)
    assert angles[others] == pytest.approx(q[others] @ p / lengths, abs=1e-5)


def test_equal_scores_are_selected_by_the_smaller_row():
    rows, values, none = np.empty(3, np.int32), np.empty(3, np.float32), np.zeros(0, np.int32)
    scores = np.array([1, 2, 2, np.nan, 2, 2], np.float32)
    assert select_top(scores, np.array([1], np.int32), none, False, rows, values) == 3
    assert rows.tolist() == [2, 4, 5]
