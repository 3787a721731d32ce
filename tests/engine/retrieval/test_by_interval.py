import dataclasses

import numpy as np
import pytest

from app.engine.fold_in.fold_in import FoldIn
from app.engine.retrieval.by_interval import best_by_interval
from tests.engine.worlds import model_of, random_model, random_posterior

RATED, VALUES = np.array([3, 17, 8], np.int32), np.array([5.0, 1.0, 3.5], np.float32)


@pytest.fixture
def fold_in():
    model = random_model(n_items=300)
    return FoldIn(dataclasses.replace(model, posterior=random_posterior(model)))


@pytest.mark.parametrize("end", ["lower", "upper"])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_list_is_that_of_sorting_all_ends(fold_in, end, level):
    user = fold_in.fold_in(RATED, VALUES)
    rows = np.arange(300, dtype=np.int32)
    ends = fold_in.interval(user, rows, *fold_in.predict(user, rows), level)[end == "upper"]
    ends[RATED] = -np.inf
    found, bounds = best_by_interval(fold_in, user, 20, end, level=level, excluded=RATED)
    assert found.tolist() == np.argsort(-ends, kind="stable")[:20].tolist()
    assert bounds.tolist() == ends[found].tolist()


def test_only_candidates_are_listed_and_fewer_when_fewer_are_left(fold_in):
    user = fold_in.fold_in(RATED, VALUES)
    found, _ = best_by_interval(
        fold_in, user, 10, "lower", candidates=np.array([40, -1, 17, 5], np.int32), excluded=RATED
    )
    assert sorted(found.tolist()) == [5, 40]


def test_caution_prefers_what_is_known_and_optimism_what_is_not():
    """Two items with the same value; only what the first points at has been rated."""
    model = model_of(np.eye(2, 3), prior=None)
    fold_in = FoldIn(model)
    user = dataclasses.replace(fold_in.fold_in([0] * 20, [3.0] * 20), bias=0.0, factors=np.zeros(3, np.float32))
    assert best_by_interval(fold_in, user, 1, "lower")[0].tolist() == [0]
    assert best_by_interval(fold_in, user, 1, "upper")[0].tolist() == [1]
