import numpy as np
import pytest

from app.engine.retrieval.index import TopNIndex
from app.engine.retrieval.index_kernels import DOES_NOT_FIT, search_one
from tests.engine.worlds import model_of

NO_ROWS, NO_WORDS = np.zeros(0, np.int32), np.zeros(0, np.uint64)


@pytest.mark.parametrize(
    ("k", "excluded", "n_found"), [(8, [], 5), (8, [-1, 3, 3], 5), (7, [], DOES_NOT_FIT), (8, [700], DOES_NOT_FIT)]
)
def test_a_search_returns_the_number_of_rows_or_that_an_argument_does_not_fit(k, excluded, n_found):
    index = TopNIndex.build(model_of(np.random.default_rng(0).normal(size=(700, 8))))
    values, rows = np.empty(5, np.float32), np.empty(5, np.int32)
    query = np.ones(k, np.float32), 0.0, np.array(excluded, np.int32)
    assert search_one(index._record, False, *query, NO_WORDS, NO_ROWS, False, values, rows) == n_found
