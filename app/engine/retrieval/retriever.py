"""What every way of finding the best items has in common: queries in, rows with scores out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from app.engine.arrays import Rows, Vector32
from app.engine.data.row_sets import RowSet

NO_ROWS = np.zeros(0, np.int32)
NO_ROWS.flags.writeable = False

RankedRows = tuple[Rows, Vector32]
"""Rows, best first, and their scores."""


class Query(NamedTuple):
    """A vector to search with, a constant added to each of its scores, and rows to leave out."""

    vector: Vector32
    base: float = 0.0
    excluded: Rows = NO_ROWS


class Retriever(Protocol):
    """Exact top-N search over the items of one model; threads share it. All implementations return the same bits."""

    def search(
        self,
        queries: Sequence[Query],
        n: int,
        *,
        candidates: Rows | None = None,
        among: RowSet | None = None,
        cosine: bool = False,
    ) -> list[RankedRows]:
        """The n best rows for each query, best first, and their scores: base + b_i + p.q_i, or cosines of p and q_i.

        Ties go to the smaller row. Fewer rows where fewer are left; a score of NaN never appears. Only rows that are in
        both `candidates` and `among` are considered, where these are set. Rows of -1 are skipped; others outside the
        model raise InvalidArray.
        """
        ...
