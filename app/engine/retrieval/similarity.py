"""Items similar to several: by their mean cosine with them (of items: Sarwar et al. 2001, section 3.1.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Vector32, refuse_rows_outside, rows
from app.engine.factors import FactorModel


def common_direction(model: FactorModel, item_rows: npt.ArrayLike) -> tuple[Vector32, float]:
    """The mean of the items' vectors, each first scaled to length 1 (Rocchio 1971), and the length of that mean.

    The cosine of an item with that mean, times the length, is the item's mean cosine with all of them. Rows of -1 and
    zero vectors are skipped; zeros where none is left.
    """
    known = rows(item_rows, "item_rows")
    refuse_rows_outside(known, model.n_items, "item_rows", unknown_allowed=True)
    vectors = model.item_factors[known[known >= 0]].astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors[lengths > 0] / lengths[lengths > 0, None]
    mean = unit.mean(axis=0) if unit.size else np.zeros(model.n_factors)
    return mean.astype(np.float32), float(np.linalg.norm(mean))
