"""What items are, beside what their ratings say: categories, as features of the items."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from app.engine.arrays import Matrix32, Rows
from app.items import store
from app.registry.artifacts import Keys

_LEAST_ITEMS = 5
"""Rated items that a category must have: fewer say nothing of what it is worth."""
_MOST = 64
"""Categories that become features, those of the most rated items first: a sweep's time grows with their number."""


@dataclass(frozen=True, slots=True)
class Categorised:
    """The items that have categories, rated or not, in the order of their outside ids."""

    item_keys: Keys
    item_ids: list[str]
    categories: list[list[str]]

    def __len__(self) -> int:
        return len(self.item_ids)

    def told(self) -> bytes:
        """Who has which categories, whatever the keys."""
        return json.dumps(list(zip(self.item_ids, self.categories, strict=True))).encode()

    def features(self, item_rows: Rows, item_counts: Rows) -> Matrix32 | None:
        """A column of 0 and 1 for each category, and one for items that have none; None where there is no category.

        item_rows: the row of each of these items   item_counts: ratings of each row
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
    """Of all items, as of the state of the data that the transaction sees."""
    found = sorted(store.categories_by_item(connection), key=lambda item: item[1].encode())
    keys = np.fromiter((key for key, _, _ in found), np.int64, len(found))
    return Categorised(keys, [item_id for _, item_id, _ in found], [sorted(set(names)) for _, _, names in found])


def _columns_of(categories: list[list[str]]) -> dict[str, int]:
    """The place of each category that becomes a feature, by name."""
    counts = Counter(name for names in categories for name in names)
    common = sorted(((-n, name) for name, n in counts.items() if n >= _LEAST_ITEMS))[:_MOST]
    return {name: place for place, name in enumerate(sorted(name for _, name in common))}
