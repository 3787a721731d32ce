"""The best items by an end of their interval: the lower one is cautious, the upper one explores."""

from __future__ import annotations

from typing import Literal

import numpy as np

from app.engine.arrays import Rows
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.intervals import INTERVAL_LEVEL
from app.engine.fold_in.user import UserVector
from app.engine.retrieval.brute_force import best_rows
from app.engine.retrieval.retriever import NO_ROWS, RankedRows

End = Literal["lower", "upper"]


def best_by_interval(
    fold_in: FoldIn,
    user: UserVector,
    n: int,
    end: End,
    *,
    level: float = INTERVAL_LEVEL,
    excluded: Rows = NO_ROWS,
    candidates: Rows | None = None,
) -> RankedRows:
    """The n items with the highest lower (or upper) end of the interval for this level, best first, with that end.

    Not clipped to any scale, so that ends beyond it still differ. The upper end is optimism in the face of uncertainty
    (Li et al. 2010, LinUCB). An end is no scalar product, so that no index applies: every candidate is scored, at
    O(k^2) each.
    """
    rows = np.arange(fold_in.model.n_items, dtype=np.int32) if candidates is None else np.unique(candidates)
    rows = rows[rows >= 0]
    values, variances = fold_in.predict(user, rows)
    ends = fold_in.interval(user, rows, values, variances, level)
    scores = np.full(fold_in.model.n_items, np.nan, np.float32)
    scores[rows] = ends[0 if end == "lower" else 1]
    return best_rows(scores, n, excluded=excluded, candidates=None if candidates is None else rows)
