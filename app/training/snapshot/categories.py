"""Categories of the items, as features for posterior averaging."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from app.engine.arrays import Matrix32, Rows
from app.items import store
from app.registry.artifacts import Keys

_MIN_ITEMS = 5
"""A category with fewer rated items is not used: too few to learn its effect."""
_MAX_FEATURES = 64
"""The categories with the most rated items become features; the time of a sweep grows with their number."""


@dataclass(frozen=True, slots=True)
class Categorised:
    """All items with categories, rated or not, sorted by outside id."""

    item_keys: Keys
    item_ids: list[str]
    categories: list[list[str]]

    def __len__(self) -> int:
        return len(self.item_ids)

    def to_bytes(self) -> bytes:
        """Item ids and their categories, for a digest; without the keys."""
        return json.dumps(list(zip(self.item_ids, self.categories, strict=True))).encode()

    def features(self, item_rows: Rows, item_counts: Rows) -> Matrix32 | None:
        """0 or 1 for each category, and for "none of them" in the last column; None without categories.

        item_rows: row of each of these items   item_counts: ratings of each row
        """
        of_rated = [names for row, names in zip(item_rows.tolist(), self.categories, strict=True) if item_counts[row]]
        columns = _columns_of(of_rated)
        if not columns:
            return None
        features = np.zeros((item_counts.size, len(columns) + 1), np.float32)
        features[:, -1] = 1.0
        for row, names in zip(item_rows.tolist(), self.categories, strict=True):
            features[row, -1] = 0.0
            features[row, [columns[name] for name in names if name in columns]] = 1.0
        return features


NO_CATEGORIES = Categorised(np.zeros(0, np.int64), [], [])


def read_categories(connection: Connection) -> Categorised:
    """The categories of all items, as the transaction sees them."""
    rows = sorted(store.categories_by_item(connection), key=lambda row: row[1].encode())
    keys = np.fromiter((key for key, _, _ in rows), np.int64, len(rows))
    return Categorised(keys, [item_id for _, item_id, _ in rows], [sorted(set(names)) for _, _, names in rows])


def _columns_of(categories: list[list[str]]) -> dict[str, int]:
    """The column of each category that becomes a feature."""
    counts = Counter(name for names in categories for name in names)
    common = sorted(((-n, name) for name, n in counts.items() if n >= _MIN_ITEMS))[:_MAX_FEATURES]
    return {name: column for column, name in enumerate(sorted(name for _, name in common))}
