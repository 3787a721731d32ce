"""Titles, categories and visibility of a model's items by row, kept in memory and exact at every request."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from app.database import peek_revision
from app.engine.arrays import Rows
from app.items import store as items

_BLOCK = 512
"""Rows that are copied together when one of them changes."""


class Description(NamedTuple):
    """What is told of an item in a list."""

    title: str | None
    categories: list[str]


NOTHING = Description(None, [])


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """The items of one model as of one items revision; never changed, only replaced, and shared as far as possible."""

    revision: int
    blocks: list[list[Description]]
    is_hidden: npt.NDArray[np.bool_]
    hidden: Rows
    rows_by_category: Mapping[str, Rows]

    def described(self, row: int) -> Description:
        return self.blocks[row // _BLOCK][row % _BLOCK]

    def rows_in(self, categories: Iterable[str]) -> Rows:
        """Rows of the items that lie in any of the categories, sorted."""
        found = [self.rows_by_category[name] for name in categories if name in self.rows_by_category]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int32)


class Catalogue:
    """Gives each request a view, for the rows of one model, that holds every committed item change."""

    def __init__(self, n_items: int, item_rows_of: Callable[[npt.NDArray[np.int64]], Rows]) -> None:
        self._n_items = n_items
        self._item_rows_of = item_rows_of
        self._lock = threading.Lock()
        self._view: CatalogueView | None = None

    @property
    def last_view(self) -> CatalogueView | None:
        """What was seen last, however long ago: what there is while the database is away."""
        return self._view

    def view_at_hand(self, connection: Connection) -> CatalogueView | None:
        """The view, if it is there already and no item has changed since."""
        view = self._view
        return view if view and view.revision >= peek_revision(connection, "items") else None

    def view(self, connection: Connection) -> CatalogueView:
        """One counter is looked at per request; only changed items are read again, by one request for all."""
        view = self.view_at_hand(connection)
        if view is None:
            with self._lock:
                view = self.view_at_hand(connection)  # whoever had the lock may have brought it up to date
                if view is None:
                    view = self._view = self._brought_up_to_date(connection, self._view)
        return view

    def _brought_up_to_date(self, connection: Connection, old: CatalogueView | None) -> CatalogueView:
        old = old or _blank(self._n_items)
        changes = items.catalogue(connection, old.revision)
        known = self._item_rows_of(np.array([item.item_key for item in changes.changed], np.int64)).tolist()
        changed = {
            row: (Description(item.title, item.categories), item.hidden)
            for row, item in zip(known, changes.changed, strict=True)
            if row >= 0
        }
        deleted = self._item_rows_of(np.array(changes.deleted, np.int64)).tolist()
        return _replaced(old, changes.revision, changed | {row: (NOTHING, True) for row in deleted if row >= 0})


def _blank(n_items: int) -> CatalogueView:
    """A row without an item is an item deleted since the model was trained: it stays hidden."""
    blocks = [[NOTHING] * min(_BLOCK, n_items - first) for first in range(0, n_items, _BLOCK)]
    return CatalogueView(0, blocks, np.ones(n_items, bool), np.arange(n_items, dtype=np.int32), {})


def _replaced(old: CatalogueView, revision: int, changed: Mapping[int, tuple[Description, bool]]) -> CatalogueView:
    """Costs as much as the changes, and copies of what they touch; an item that the model does not know is nothing."""
    if not changed:
        return replace(old, revision=revision)
    blocks = list(old.blocks)
    for number in {row // _BLOCK for row in changed}:
        blocks[number] = list(blocks[number])
    is_hidden = old.is_hidden.copy()
    for row, (description, item_is_hidden) in changed.items():
        blocks[row // _BLOCK][row % _BLOCK] = description
        is_hidden[row] = item_is_hidden
    hidden = np.flatnonzero(is_hidden).astype(np.int32)
    return CatalogueView(revision, blocks, is_hidden, hidden, _moved(old, changed))


def _moved(old: CatalogueView, changed: Mapping[int, tuple[Description, bool]]) -> Mapping[str, Rows]:
    """Rows by category, where only categories that gain or lose an item are copied."""
    gained: dict[str, list[int]] = defaultdict(list)
    lost: dict[str, list[int]] = defaultdict(list)
    for row, (description, _) in sorted(changed.items()):
        before, after = set(old.described(row).categories), set(description.categories)
        for name in after - before:
            gained[name].append(row)
        for name in before - after:
            lost[name].append(row)
    if not gained and not lost:
        return old.rows_by_category
    rows = dict(old.rows_by_category)
    for name in gained.keys() | lost.keys():
        rows[name] = _merged(rows.get(name), gained.get(name, []), lost.get(name, []))
        if not rows[name].size:
            del rows[name]
    return rows


def _merged(rows: Rows | None, gained: list[int], lost: list[int]) -> Rows:
    """Sorted rows with some more and some fewer."""
    added = np.array(gained, np.int32)
    if rows is None:
        return added
    kept = np.delete(rows, np.searchsorted(rows, lost))
    return np.insert(kept, np.searchsorted(kept, added), added)
