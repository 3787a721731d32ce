"""The items of a model by row: which are hidden, their categories, and their JSON."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Connection

from app.db.connections import shrink_cache
from app.db.engine import DATABASE_IS_AWAY
from app.db.revisions import peek_revision
from app.engine.arrays import Counts, Mask, Rows
from app.engine.data.id_search import look_up
from app.engine.data.ratings import Vocabulary
from app.engine.data.row_sets import RowSet
from app.items import store as items
from app.recommendations.schemas import ItemFilter, ItemRef
from app.registry.artifacts import Keys

Json = str
"""Text that is already JSON."""
Column = Sequence[float] | Sequence[Json]
"""A field of each item of a list; numbers must be finite."""

NO_FILTER = ItemFilter()
MAX_ITEM_JSONS = 100_000
"""Items whose JSON is cached: some 25 MB."""
MAX_SETS = 64
"""Filters whose items are cached as a set."""


@dataclass(frozen=True, slots=True)
class CatalogView:
    """The items of one model as of one items revision; never changed, only replaced, and shared as far as possible.

    The JSON of an item is read when it is first needed, and may then be newer than the revision.
    """

    item_keys: Keys
    item_ids: Vocabulary
    revision: int
    is_hidden: Mask
    rows_by_category: Mapping[str, Rows]
    visible: RowSet | None
    """None if nothing is hidden."""
    _item_jsons: dict[int, Json]
    _sets: dict[ItemFilter, RowSet] = field(default_factory=dict)

    def rows_in(self, categories: Iterable[str]) -> Rows:
        """Rows of the items in any of the categories, sorted."""
        members = [self.rows_by_category[name] for name in categories if name in self.rows_by_category]
        return np.unique(np.concatenate(members)) if members else np.zeros(0, np.int32)

    def among(self, item_filter: ItemFilter, item_counts: Counts) -> RowSet | None:
        """Items that pass the filter and are not hidden; None means all."""
        if item_filter == NO_FILTER:
            return self.visible
        row_set = self._sets.get(item_filter)
        if row_set is None:
            row_set = self._filtered(item_filter, item_counts)
            if len(self._sets) >= MAX_SETS:
                self._sets.clear()
            self._sets[item_filter] = row_set
        return row_set

    def _filtered(self, item_filter: ItemFilter, item_counts: Counts) -> RowSet:
        n_rows = self.is_hidden.size
        row_set = self.visible or RowSet.full(n_rows)
        if item_filter.any_of:
            row_set &= RowSet.of(self.rows_in(item_filter.any_of), n_rows)
        for name in item_filter.all_of:
            row_set &= RowSet.of(self.rows_in([name]), n_rows)
        if item_filter.none_of:
            row_set -= RowSet.of(self.rows_in(item_filter.none_of), n_rows)
        if item_filter.min_ratings:
            row_set &= RowSet.where(item_counts >= item_filter.min_ratings)
        return row_set

    def list_json(
        self, fields: Mapping[str, object], item_rows: Rows, connection: Connection, columns: Mapping[str, Column]
    ) -> bytes:
        """An answer: its fields, and `items` as from `items_json`. The text is what the schemas would give."""
        items = ",".join(self.items_json(item_rows, connection, columns))
        return b'%b,"items":[%b]}' % (to_json(fields)[:-1], items.encode())

    def items_json(self, item_rows: Rows, connection: Connection, columns: Mapping[str, Column]) -> list[Json]:
        """Each item as JSON: the fields of `ItemRef`, then one of each column.

        What is not cached is read; while the database is away, such items have neither title nor categories.
        """
        rows = item_rows.tolist()
        if not rows:
            return []
        jsons = list(map(self._item_jsons.get, rows))
        if None in jsons:
            unread = np.unique(item_rows[[position for position, json in enumerate(jsons) if json is None]])
            read = self._read(unread, connection)
            jsons = [json or read[row] for row, json in zip(rows, jsons, strict=True)]
        # Encoding all numbers of a column at once takes half the time of Python, which writes them one by one.
        texts = [
            column if isinstance(column[0], str) else to_json(column)[1:-1].decode("ascii").split(",")
            for column in columns.values()
        ]
        item = "%s" + "".join(f',"{name}":%s' for name in columns) + "}"
        return list(map(item.__mod__, zip(jsons, *texts, strict=True)))

    def _read(self, item_rows: Rows, connection: Connection) -> dict[int, Json]:
        keys, described = self.item_keys[item_rows].tolist(), None
        with contextlib.suppress(*DATABASE_IS_AWAY):
            described = items.describe(connection, keys)
        jsons: dict[int, Json] = {}
        for row, key, item_id in zip(item_rows.tolist(), keys, self.item_ids.ids_of(item_rows), strict=True):
            title, categories = described.get(key, (None, [])) if described else (None, [])
            jsons[row] = ItemRef(item_id=item_id, title=title, categories=categories).model_dump_json()[:-1]
        if described is not None:
            if len(self._item_jsons) + len(jsons) > MAX_ITEM_JSONS:
                self._item_jsons.clear()
            self._item_jsons.update(jsons)
        return jsons


class Catalog:
    """Gives each request a view, for the rows of one model, that includes every committed item change."""

    def __init__(self, item_keys: Keys, item_ids: Vocabulary, item_row_of_key: Rows) -> None:
        self.last_view: CatalogView | None = None
        """The newest view, however old: all there is while the database is away."""
        self._item_keys = item_keys
        self._item_ids = item_ids
        self._item_row_of_key = item_row_of_key
        self._lock = threading.Lock()

    def current_view(self, connection: Connection) -> CatalogView | None:
        """The last view if no item has changed since, else None."""
        view = self.last_view
        return None if view is None or view.revision < peek_revision(connection, "items") else view

    def view(self, connection: Connection) -> CatalogView:
        """A view with every committed change: one query of a counter; one thread reads the changed items for all."""
        view = self.current_view(connection)
        if view is None:
            with self._lock:
                view = self.current_view(connection)  # the previous owner of the lock may have updated it
                if view is None:
                    is_first, view = self.last_view is None, self._updated(connection, self.last_view)
                    self.last_view = view
                    if is_first:  # every item was read
                        shrink_cache(connection)
                        _trim_heap()
        return view

    def _updated(self, connection: Connection, old: CatalogView | None) -> CatalogView:
        old = old or self._blank()
        changes = items.catalog_changes(connection, old.revision)
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
        gained = {name: np.setdiff1d(self._rows(keys_in), gone) for name, keys_in in members.items()}
        item_jsons = old._item_jsons.copy()
        for row in changed.tolist() if item_jsons else ():
            item_jsons.pop(row, None)
        by_category = _moved(old.rows_by_category, changed, gained)
        visible = RowSet.where(~is_hidden) if is_hidden.any() else None
        ids = self._item_keys, self._item_ids
        return CatalogView(*ids, changes.revision, is_hidden, by_category, visible, item_jsons)

    def _blank(self) -> CatalogView:
        """A row without an item belongs to an item deleted since the model was trained: it stays hidden."""
        n_items = self._item_keys.size
        none = RowSet.of(np.zeros(0, np.int32), n_items)
        return CatalogView(self._item_keys, self._item_ids, 0, np.ones(n_items, np.bool_), {}, none, {})

    def _rows(self, keys: Collection[int]) -> Rows:
        return look_up(self._item_row_of_key, np.array(keys, np.int64))


def _moved(old: Mapping[str, Rows], changed: Rows, members_now: Mapping[str, Rows]) -> Mapping[str, Rows]:
    """Rows by category after changes; only categories that gain or lose an item are copied.

    changed: rows of the changed items, ascending
    members_now: changed items by category, and items outside the model as -1
    """
    rows_by_category = dict(old)
    for name in old.keys() | members_now.keys():
        before = old.get(name, np.zeros(0, np.int32))
        members = np.unique(members_now.get(name, np.zeros(0, np.int32)))
        members = members[members >= 0].astype(np.int32)
        members_before = changed[np.isin(changed, before)] if before.size else before
        if np.array_equal(members_before, members):
            continue
        unchanged = np.setdiff1d(before, members_before, assume_unique=True)
        after = np.union1d(unchanged, members).astype(np.int32)
        if after.size:
            rows_by_category[name] = after
        else:
            rows_by_category.pop(name, None)
    return rows_by_category


def _trim_heap() -> None:
    """Return freed memory to the system after a large, short-lived allocation; glibc would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
