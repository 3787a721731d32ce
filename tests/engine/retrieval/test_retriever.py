"""An index and a scan of everything give the same lists, bit for bit."""

import numpy as np
import pytest

from app.engine.arrays import InvalidArray
from app.engine.data.row_sets import RowSet
from app.engine.factors import FactorModel
from app.engine.retrieval.brute_force import BruteForceRetriever
from app.engine.retrieval.index import TopNIndex, build_retriever
from app.engine.retrieval.retriever import Query
from tests.engine.worlds import model_of

RNG = np.random.default_rng(5)


def model(n_items: int, k: int = 8) -> FactorModel:
    return model_of(RNG.normal(size=(n_items, k)), item_bias=RNG.normal(size=n_items))


def test_a_model_of_few_items_is_scanned_and_a_larger_one_indexed() -> None:
    assert isinstance(build_retriever(model(100)), BruteForceRetriever)
    assert isinstance(build_retriever(model(600)), TopNIndex)


@pytest.mark.parametrize("cosine", [False, True])
def test_both_find_the_same_rows_and_scores_with_every_filter(cosine: bool) -> None:
    n_items = 700
    of = model(n_items)
    index, scan = build_retriever(of), BruteForceRetriever(of)
    for share in (0.01, 0.5, None):
        among = None if share is None else RowSet.where(RNG.random(n_items) < share)
        for n_candidates in (3, 400, None):
            candidates = None if n_candidates is None else RNG.integers(-1, n_items, n_candidates).astype(np.int32)
            excluded = RNG.choice(n_items, 50, replace=False).astype(np.int32)
            queries = [Query(RNG.normal(size=8).astype(np.float32), 3.5, excluded)] * 2
            both = [
                retriever.search(queries, 10, candidates=candidates, among=among, cosine=cosine)
                for retriever in (index, scan)
            ]
            for (rows, scores), (own_rows, own_scores) in zip(*both, strict=True):
                assert rows.tolist() == own_rows.tolist()
                assert scores.tolist() == own_scores.tolist()


def test_a_set_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidArray, match="among"):
        BruteForceRetriever(model(10)).search([Query(np.ones(8, np.float32))], 1, among=RowSet.full(11))
