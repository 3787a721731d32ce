"""Converts matrices with gaps, sparse matrices, tables and triples of ratings to plain arrays.

SciPy, pandas and Polars are never imported: their objects are recognised by their attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from app.engine.arrays import InvalidArray, Positions, Vector64

Ids = list[str]

_COLUMNS = ("user_id", "item_id", "value")


def entries_of(matrix: Any, name: str = "D") -> tuple[Positions, Positions, Vector64, tuple[int, int]]:
    """Rows, columns and values of the known entries, row by row, and the shape of a 2-D matrix.

    Unknown are the masked entries of a NumPy masked array, NaN in any other array, and entries that a SciPy sparse
    matrix does not store (a stored zero is known). Raises InvalidArray for anything else.
    """
    if hasattr(matrix, "tocoo"):
        stored = matrix.tocoo()
        rows, columns = (np.asarray(each, np.int64) for each in (stored.row, stored.col))
        values = np.asarray(stored.data, np.float64)
        order = np.lexsort((columns, rows))
        rows, columns, values, shape = rows[order], columns[order], values[order], stored.shape
        if ((np.diff(rows) == 0) & (np.diff(columns) == 0)).any():
            raise InvalidArray(name, "stores an entry twice: call sum_duplicates() first")
    else:
        array = np.asarray(np.ma.getdata(matrix), np.float64)
        if array.ndim != 2:
            raise InvalidArray(name, f"must have two dimensions, not {array.ndim}")
        is_masked = np.ma.isMaskedArray(matrix)
        rows, columns = np.nonzero(~np.ma.getmaskarray(matrix) if is_masked else ~np.isnan(array))
        values, shape = array[rows, columns], array.shape
    if not np.isfinite(values).all():
        raise InvalidArray(name, "holds a known entry that is not finite")
    return rows, columns, values, (int(shape[0]), int(shape[1]))


def triples_of(ratings: Any) -> tuple[Ids, Ids, Vector64]:
    """User ids, item ids and values, of equal length; ids become text, as everywhere in Palate.

    From a matrix (ids are positions), from a pandas or Polars table (columns user_id, item_id and value, or else the
    first three), or from (user, item, value) triples. Raises InvalidArray.
    """
    if isinstance(ratings, np.ndarray) or hasattr(ratings, "tocoo"):
        rows, columns, values, _ = entries_of(ratings, "ratings")
        return [str(row) for row in rows.tolist()], [str(column) for column in columns.tolist()], values
    users, items, raw_values = _from_table(ratings) if hasattr(ratings, "columns") else _from_rows(ratings)
    try:
        values = np.asarray(raw_values, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArray("ratings", f"hold a value that is not a number: {error}") from error
    if not np.isfinite(values).all():
        raise InvalidArray("ratings", "hold a value that is not finite")
    return [str(user) for user in users], [str(item) for item in items], values


def _from_table(table: Any) -> tuple[list[Any], list[Any], list[Any]]:
    names = list(table.columns)
    if len(names) < 3:
        raise InvalidArray("ratings", f"need three columns (user, item, value), not {len(names)}")
    chosen = _COLUMNS if set(_COLUMNS) <= set(names) else names[:3]
    users, items, values = (np.asarray(table[name]).tolist() for name in chosen)
    return users, items, values


def _from_rows(rows: Iterable[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    columns: tuple[list[Any], list[Any], list[Any]] = [], [], []
    for row in rows:
        try:
            user, item, value = row
        except (TypeError, ValueError) as error:
            raise InvalidArray("ratings", f"need (user, item, value) triples, not {row!r}") from error
        for column, part in zip(columns, (user, item, value), strict=True):
            column.append(part)
    return columns
