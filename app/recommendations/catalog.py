"""What lists need to know of a model's items by row: who is hidden, categories, and what is told of them."""

from __future__ import annotations

import threading
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from app.db.connections import Changes, forget_pages
from app.db.revisions import peek_revision
from app.engine.arrays import Counts, Mask, Rows
from app.engine.data.row_sets import RowSet
from app.items import store as items
from app.memory import give_back_freed_memory
from app.recommendations.schemas import Filter, ItemRef

Keys = npt.NDArray[np.int64]

EVERYTHING = Filter()
MAX_TEXTS = 100_000
"""Items whose description is kept: some 25 MB."""
MAX_SETS = 64
"""Filters whose items are kept as a set."""


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """The items of one model as of one items revision; never changed, only replaced, and shared as far as possible.

    Descriptions are read when they are first asked for, and may then be newer than the revision.
    """

    revision: int
    is_hidden: Mask
    rows_by_category: Mapping[str, Rows]
    visible: RowSet | None
    """None where nothing is hidden."""
    _texts: dict[int, str]
    _sets: dict[Filter, RowSet] = field(default_factory=dict)

    def rows_in(self, categories: Iterable[str]) -> Rows:
        """Rows of the items that lie in any of the categories, sorted."""
        found = [self.rows_by_category[name] for name in categories if name in self.rows_by_category]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int32)

    def among(self, wanted: Filter, item_counts: Counts) -> RowSet | None:
        """Items that may be listed: not hidden, and as the filter says; None means all."""
        if wanted == EVERYTHING:
            return self.visible
        found = self._sets.get(wanted)
        if found is None:
            found = self._filtered(wanted, item_counts)
            if len(self._sets) >= MAX_SETS:
                self._sets.clear()
            self._sets[wanted] = found
        return found

    def _filtered(self, wanted: Filter, item_counts: Counts) -> RowSet:
        n_rows = self.is_hidden.size
        found = self.visible or RowSet.everything(n_rows)
        if wanted.any_of:
            found &= RowSet.of(self.rows_in(wanted.any_of), n_rows)
        for name in wanted.all_of:
            found &= RowSet.of(self.rows_in([name]), n_rows)
        if wanted.none_of:
            found -= RowSet.of(self.rows_in(wanted.none_of), n_rows)
        if wanted.min_ratings:
            found &= RowSet.where(item_counts >= wanted.min_ratings)
        return found

    def texts(
        self,
        connect: Callable[[], Connection | None],
        item_rows: Rows,
        item_keys: Keys,
        ids: Callable[[Rows], list[str]],
    ) -> list[str]:
        """Each item as the JSON of `ItemRef`, without the brace at its end; without a connection only what is kept."""
        rows = item_rows.tolist()
        found = [self._texts.get(row) for row in rows]
        if None in found:
            unread = np.unique(item_rows[[place for place, text in enumerate(found) if text is None]])
            read = self._read_texts(connect(), unread, item_keys, ids)
            found = [text or read[row] for row, text in zip(rows, found, strict=True)]
        return [text for text in found if text is not None]

    def _read_texts(
        self, connection: Connection | None, item_rows: Rows, item_keys: Keys, ids: Callable[[Rows], list[str]]
    ) -> dict[int, str]:
        keys = item_keys[item_rows].tolist()
        described = items.describe(connection, keys) if connection else {}
        told: dict[int, str] = {}
        for row, key, item_id in zip(item_rows.tolist(), keys, ids(item_rows), strict=True):
            title, categories = described.get(key, (None, []))
            told[row] = ItemRef(item_id=item_id, title=title, categories=categories).model_dump_json()[:-1]
        if connection:
            if len(self._texts) + len(told) > MAX_TEXTS:
                self._texts.clear()
            self._texts.update(told)
        return told


class Catalogue:
    """Gives each request a view, for the rows of one model, that holds every committed item change."""

    def __init__(self, n_items: int, item_rows_of: Callable[[Keys], Rows]) -> None:
        self._n_items = n_items
        self._item_rows_of = item_rows_of
        self._lock = threading.Lock()
        self._view: CatalogueView | None = None
        self._seen: tuple[Changes, CatalogueView] | None = None

    @property
    def last_view(self) -> CatalogueView | None:
        """What was seen last, however long ago: what there is while the database is away."""
        return self._view

    def view_at_hand(self, connection: Connection, changes: Changes | None = None) -> CatalogueView | None:
        """The view, if it is there already and no item has changed since.

        `changes` are what the database's were just now, from one reader only: where they are what they were at the last
        look, nobody needs to look again.
        """
        seen, view = self._seen, self._view
        if changes is not None and seen is not None and seen[0] == changes and seen[1] is view:
            return view
        if view is None or view.revision < peek_revision(connection, "items"):
            return None
        if changes is not None:
            self._seen = changes, view
        return view

    def view(self, connection: Connection) -> CatalogueView:
        """One counter is looked at per request; only changed items are read again, by one request for all."""
        view = self.view_at_hand(connection)
        if view is None:
            with self._lock:
                view = self.view_at_hand(connection)  # whoever had the lock may have brought it up to date
                if view is None:
                    is_first, view = self._view is None, self._brought_up_to_date(connection, self._view)
                    self._view = view
                    if is_first:  # every item was read
                        forget_pages(connection)
                        give_back_freed_memory()
        return view

    def _brought_up_to_date(self, connection: Connection, old: CatalogueView | None) -> CatalogueView:
        old = old or _blank(self._n_items)
        changes = items.catalogue(connection, old.revision)
        keys, hidden = array("q"), array("b")
        members: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        for item in changes.changed:
            keys.append(item.item_key)
            hidden.append(item.hidden)
            for name in item.categories:
                members[name].append(item.item_key)
        gone = self._rows(changes.deleted)
        rows = self._rows(keys)
        is_known = rows >= 0
        if not is_known.any() and not gone.size:
            return replace(old, revision=changes.revision)
        is_hidden = old.is_hidden.copy()
        is_hidden[rows[is_known]] = np.array(hidden, np.bool_)[is_known]
        is_hidden[gone[gone >= 0]] = True
        changed = np.union1d(rows[is_known], gone[gone >= 0]).astype(np.int32)
        gained = {name: np.setdiff1d(self._rows(found), gone) for name, found in members.items()}
        texts = old._texts.copy()
        for row in changed.tolist() if texts else ():
            texts.pop(row, None)
        by_category = _moved(old.rows_by_category, changed, gained)
        visible = RowSet.where(~is_hidden) if is_hidden.any() else None
        return CatalogueView(changes.revision, is_hidden, by_category, visible, texts)

    def _rows(self, keys: Collection[int]) -> Rows:
        return self._item_rows_of(np.array(keys, np.int64))


def _blank(n_items: int) -> CatalogueView:
    """A row without an item is an item deleted since the model was trained: it stays hidden."""
    return CatalogueView(0, np.ones(n_items, np.bool_), {}, RowSet.of(np.zeros(0, np.int32), n_items), {})


def _moved(old: Mapping[str, Rows], changed: Rows, now: Mapping[str, Rows]) -> Mapping[str, Rows]:
    """Rows by category after changes; only categories that gain or lose an item are copied.

    changed: rows that have changed, ascending   now: those of them, and of items outside the model, by category
    """
    rows_by_category = dict(old)
    for name in old.keys() | now.keys():
        before = old.get(name, np.zeros(0, np.int32))
        members = np.unique(now.get(name, np.zeros(0, np.int32)))
        members = members[members >= 0].astype(np.int32)
        were = changed[np.isin(changed, before)] if before.size else before
        if np.array_equal(were, members):
            continue
        kept = np.setdiff1d(before, were, assume_unique=True)
        after = np.union1d(kept, members).astype(np.int32)
        if after.size:
            rows_by_category[name] = after
        else:
            rows_by_category.pop(name, None)
    return rows_by_category
