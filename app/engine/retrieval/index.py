"""Exact top-N without scoring every item: bounds from 8-bit vectors leave out what cannot be among the best.

Built once per model (`app.engine.retrieval.build_index`). Items are ordered by how high they could score, rotated to
their principal axes, in blocks of 16. A group of blocks is skipped by the longest of its vectors; of the others the
first few axes are bounded, then all, and what could still be among the n best is scored from the model's own float32
vectors. So the result is that of brute force, bit for bit, ties by row. The bounds: docs/maths.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from app.engine.arrays import InvalidArray, Rows, refuse_rows_outside
from app.engine.data.row_sets import RowSet, Words
from app.engine.factors import Arrays, FactorModel
from app.engine.retrieval.brute_force import BruteForceRetriever, distinct_rows
from app.engine.retrieval.build_index import build_arrays, check_arrays, n_lead_of, slack_of
from app.engine.retrieval.index_kernels import INDEX_RECORD, SCAN_COST, search_many, search_one
from app.engine.retrieval.retriever import Query, RankedRows, Retriever

_NO_WORDS = np.zeros(0, np.uint64)


class TopNIndex:
    """A `Retriever` with bounds. Immutable; threads share it."""

    def __init__(self, model: FactorModel, arrays: Arrays) -> None:
        self.model = model
        self._n_items = model.n_items
        self._arrays = arrays
        self._outliers: Rows = np.array(arrays["outliers"], np.int32)
        # Kernels take addresses: Numba takes longer to unpack one array than a kernel takes to scan a block of items.
        names = ("order", "lead", "whole", "bias", "length", "of_block", "of_group")
        self._addressed = {name: arrays[name] for name in names} | {
            "rotation": np.array(arrays["rotation"], np.float64, order="C"),
            "item_factors": np.ascontiguousarray(model.item_factors),
            "item_bias": np.ascontiguousarray(model.item_bias),
        }
        self._record = np.zeros(1, INDEX_RECORD)
        for name, array in self._addressed.items():
            self._record[name] = array.ctypes.data
        sizes = {
            "n_items": model.n_items,
            "n_factors": model.n_factors,
            "n_groups": arrays["of_group"].shape[0],
            "n_lead": n_lead_of(model.n_factors, arrays),
            "lead_parts": arrays["lead"].shape[1],
            "whole_stride": arrays["whole"].shape[1],
        }
        for name, size in sizes.items():
            self._record[name] = size
        self._record["slack"] = slack_of(model.n_factors)

    @classmethod
    def build(cls, model: FactorModel, n_lead: int | None = None) -> TopNIndex | None:
        """The index of a model, or None where brute force is as good: few items, or too many outliers.

        n_lead: factors of the first stage, for tests and measurements; by default the spectrum decides.
        """
        arrays = build_arrays(model, n_lead)
        return None if arrays is None else cls(model, arrays)

    @classmethod
    def from_arrays(cls, model: FactorModel, mapping: Mapping[str, npt.NDArray[np.generic]]) -> TopNIndex:
        """The inverse of `arrays`; maps are used uncopied. Raises InvalidArray where they do not fit the model."""
        check_arrays(model, mapping)
        return cls(model, dict(mapping))

    def arrays(self) -> Arrays:
        """The arrays by name: what a version folder stores."""
        return dict(self._arrays)

    @property
    def n_lead(self) -> int:
        """Factors of the first stage; all of them where there is no second stage."""
        return int(self._record["n_lead"][0])

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
        if n < 0:
            raise InvalidArray("n", f"must not be negative, not {n}")
        n = min(n, self._n_items)
        offered, only_offered = self._outliers, False
        if candidates is not None:
            candidates, among = self._narrowed(candidates, among)
            offered, only_offered = (self._outliers, False) if candidates is None else (candidates, True)
        if among is not None and among.n_rows != self._n_items:
            raise InvalidArray("among", f"is of {among.n_rows} rows; the model has {self._n_items}")
        words = _NO_WORDS if among is None else among.words
        search = self._for_one if len(queries) == 1 else self._for_several
        return search(queries, n, words, offered, only_offered, cosine)

    def _for_one(
        self, queries: Sequence[Query], n: int, words: Words, offered: Rows, only_offered: bool, cosine: bool
    ) -> list[RankedRows]:
        vector, base, excluded = queries[0]
        values, rows = np.empty(n, np.float32), np.empty(n, np.int32)
        n_found = search_one(
            self._record,
            cosine,
            np.ascontiguousarray(vector, np.float32),
            base,
            np.ascontiguousarray(excluded, np.int32),
            words,
            offered,
            only_offered,
            values,
            rows,
        )
        if n_found < 0:
            self._refuse(queries)
        return [(rows[:n_found], values[:n_found])]

    def _for_several(
        self, queries: Sequence[Query], n: int, words: Words, offered: Rows, only_offered: bool, cosine: bool
    ) -> list[RankedRows]:
        if not queries:
            return []
        values, rows = np.empty((len(queries), n), np.float32), np.empty((len(queries), n), np.int32)
        n_found = np.zeros(len(queries), np.int64)
        is_done = search_many(
            self._record,
            cosine,
            np.concatenate([query.vector for query in queries], dtype=np.float32),
            np.array([query.base for query in queries], np.float64),
            np.concatenate([query.excluded for query in queries], dtype=np.int32),
            np.cumsum([query.excluded.size for query in queries]),
            words,
            offered,
            only_offered,
            n,
            values.reshape(-1),
            rows.reshape(-1),
            n_found,
        )
        if not is_done:
            self._refuse(queries)
        return [(rows[u, :found], values[u, :found]) for u, found in enumerate(n_found.tolist())]

    def _refuse(self, queries: Sequence[Query]) -> None:
        """Raises InvalidArray for what does not fit the model."""
        for query in queries:
            if query.vector.shape != (self.model.n_factors,):
                raise InvalidArray("vector", f"must have shape ({self.model.n_factors},), not {query.vector.shape}")
            refuse_rows_outside(query.excluded, self.model.n_items, "excluded", unknown_allowed=True)

    def _narrowed(self, candidates: Rows, among: RowSet | None) -> tuple[Rows | None, RowSet | None]:
        """Few candidates as ascending rows; many as a set, intersected with `among`."""
        if candidates.size <= self._n_items * SCAN_COST:
            return distinct_rows(candidates, self._n_items), among
        refuse_rows_outside(candidates, self._n_items, "candidates", unknown_allowed=True)
        listed = RowSet.of(candidates, self._n_items)
        return None, listed if among is None else among & listed


def build_retriever(model: FactorModel) -> Retriever:
    """An index, built now, or brute force where that is as fast."""
    return TopNIndex.build(model) or BruteForceRetriever(model)
