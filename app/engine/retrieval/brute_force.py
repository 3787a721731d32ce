"""The best rows by scoring every item: exact, ties by the smaller row, no excluded rows, fewer when fewer are left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.engine.arrays import InvalidArray, Rows, Vector32, refuse_rows_outside
from app.engine.data.popularity import shrunken_means
from app.engine.data.row_sets import RowSet
from app.engine.factors import FactorModel
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force_kernels import cosines, score_items, select_top
from app.engine.retrieval.retriever import NO_ROWS, Query, RankedRows


class BruteForceRetriever:
    """A `Retriever` that scores every item: for models too small for an index, or with vectors out of its range."""

    def __init__(self, model: FactorModel) -> None:
        self._model = model

    def search(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[RankedRows]:
        """See `Retriever.search`."""
        if among is not None:
            if among.n_rows != self._model.n_items:
                raise InvalidArray("among", f"is of {among.n_rows} rows; the model has {self._model.n_items}")
            members = among.rows()
            candidates = members if candidates is None else np.intersect1d(candidates, members)
        return [
            best_rows(self._scores(query, cosine), n, excluded=query.excluded, candidates=candidates)
            for query in queries
        ]

    def _scores(self, query: Query, cosine: bool) -> Vector32:
        model, scores = self._model, np.empty(self._model.n_items, np.float32)
        if cosine:
            cosines(query.vector, model.item_factors, scores)
        else:
            score_items(query.vector, query.base, model.item_factors, model.item_bias, scores)
        return scores


def top_n(
    model: FactorModel, user: UserVector, n: int, *, excluded: Rows = NO_ROWS, candidates: Rows | None = None
) -> RankedRows:
    """The n items with the highest r_hat for this user, best first, with r_hat (not clipped to any scale).

    Only candidates are considered, where set. Rows of -1 (items outside the model) in either list are skipped; other
    rows outside the model raise InvalidArray. A score of NaN never appears.
    """
    query = Query(user.factors, model.mean + user.bias, excluded)
    [(rows, scores)] = BruteForceRetriever(model).search([query], n, candidates=candidates)
    return rows, model.loss.rating_of(scores).astype(np.float32)  # every link is increasing: the order is the same


def bayesian_means(model: FactorModel) -> Vector32:
    """Each item's mean rating, shrunk to the overall mean; NaN for items without ratings."""
    return shrunken_means(model.item_counts, model.item_means, model.mean_rating, model.popularity_shrinkage)


def best_rows(scores: Vector32, n: int, *, excluded: Rows = NO_ROWS, candidates: Rows | None = None) -> RankedRows:
    """The n rows with the highest scores, best first, and those scores; NaN never appears."""
    if n < 0:
        raise InvalidArray("n", f"must not be negative, not {n}")
    pool = NO_ROWS if candidates is None else distinct_rows(candidates, scores.size)
    n = min(n, scores.size if candidates is None else pool.size)
    rows, values = np.empty(n, np.int32), np.empty(n, np.float32)
    refuse_rows_outside(excluded, scores.size, "excluded", unknown_allowed=True)
    n_selected = select_top(scores, np.sort(excluded), pool, candidates is not None, rows, values)
    return rows[:n_selected], values[:n_selected]


def distinct_rows(candidates: Rows, n_rows: int) -> Rows:
    """Ascending, each once, without -1; other rows outside the model raise InvalidArray."""
    refuse_rows_outside(candidates, n_rows, "candidates", unknown_allowed=True)
    distinct = np.unique(candidates).astype(np.int32, copy=False)
    return distinct[1:] if distinct.size and distinct[0] < 0 else distinct
