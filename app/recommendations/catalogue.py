"""Titles, categories and visibility of a model's items by row, kept in memory and exact at every request."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from app.database import peek_revision
from app.engine.arrays import Rows
from app.items import store as items
from app.recommendations.served import ServedModel


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """The items of one served model as of one items revision; never changed, only replaced."""

    served: ServedModel
    revision: int
    titles: list[str | None]
    categories: list[list[str]]
    hidden: Rows
    rows_by_category: dict[str, Rows]

    def rows_in(self, categories: Iterable[str]) -> Rows:
        """Rows of the items that lie in any of the categories, sorted."""
        found = [self.rows_by_category[name] for name in categories if name in self.rows_by_category]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int32)


class Catalogue:
    """Gives each request a view that holds every committed item change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: CatalogueView | None = None

    def view_at_hand(self, connection: Connection, served: ServedModel) -> CatalogueView | None:
        """The view, if it is there already and no item has changed since."""
        view = self._view
        if view is None or view.served is not served or view.revision < peek_revision(connection, "items"):
            return None
        return view

    def view(self, connection: Connection, served: ServedModel) -> CatalogueView:
        """One counter is looked at per request; only changed items are read again."""
        newest = peek_revision(connection, "items")
        view = self._view
        if view is None or view.served is not served or view.revision < newest:
            with self._lock:
                view = self._view = _updated(connection, self._view, served)
        return view


def _updated(connection: Connection, old: CatalogueView | None, served: ServedModel) -> CatalogueView:
    n_items = served.item_keys.size
    if old is not None and old.served is served:
        since, titles, categories = old.revision, list(old.titles), list(old.categories)
        is_hidden = np.zeros(n_items, bool)
        is_hidden[old.hidden] = True
    else:
        # A row without an item is an item deleted since the model was trained: it stays hidden.
        since, titles, categories, is_hidden = 0, [None] * n_items, [[] for _ in range(n_items)], np.ones(n_items, bool)
    changes = items.catalogue(connection, since)
    rows = served.item_rows_of(np.array([item.item_key for item in changes.changed], np.int64))
    for row, item in zip(rows.tolist(), changes.changed, strict=True):
        if row >= 0:
            titles[row], categories[row], is_hidden[row] = item.title, item.categories, item.hidden
    deleted = served.item_rows_of(np.array(changes.deleted, np.int64))
    is_hidden[deleted[deleted >= 0]] = True
    return CatalogueView(
        served,
        changes.revision,
        titles,
        categories,
        np.flatnonzero(is_hidden).astype(np.int32),
        _rows_by_category(categories),
    )


def _rows_by_category(categories: list[list[str]]) -> dict[str, Rows]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, names in enumerate(categories):
        for name in names:
            rows[name].append(row)
    return {name: np.array(found, np.int32) for name, found in rows.items()}
