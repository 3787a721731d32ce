"""Who finds the best items of a model: an index where there is one, else a scan of them all; the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from app.engine.arrays import InvalidArray, Rows, Vector32
from app.engine.data.row_sets import RowSet
from app.engine.factors import FactorModel
from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.brute_force_kernels import cosines, score_items
from app.engine.retrieval.index import Query, TopNIndex

Found = tuple[Rows, Vector32]
"""Rows, best first, and their scores."""


class Finder(Protocol):
    """Finds the best items exactly; threads share it."""

    def best(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[Found]:
        """See `TopNIndex.best`."""
        ...


class FullScan:
    """Scores every item: for models too small, or too strange, for an index."""

    def __init__(self, model: FactorModel) -> None:
        self._model = model

    def best(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[Found]:
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


def finder_of(model: FactorModel) -> Finder:
    """An index, built now, or a scan where that is as good."""
    return TopNIndex.build(model) or FullScan(model)
