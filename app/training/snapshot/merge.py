"""Merges the changes since into a snapshot, in memory.

Rows follow the outside ids, so old rows keep their order whoever is added or removed: one pass over old ratings and
changes, both sorted, gives bit by bit what reading all ratings would give. Until it is known who has ratings, the users
and items of the changes have numbers: their old rows, and the numbers from there on for new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Mask, Offsets, Rows, starts_of
from app.engine.data.id_search import look_up, rows_by_key
from app.engine.data.ratings import Ratings, Vocabulary
from app.ratings.bulk_read import DELETED, Changes
from app.registry.artifacts import Keys
from app.training.snapshot.file import Base, UnusableSnapshot

_N_THREADS = min(4, os.cpu_count() or 1)
_REMOVED = np.int32(-1)
Part = TypeVar("Part")

FindIds = Callable[[Literal["user", "item"], Sequence[int]], dict[int, str]]
"""Returns the outside ids of database keys."""


@dataclass(frozen=True, slots=True)
class _Numbered:
    """The users or items of the changes: the number of each, and the keys of the new ones."""

    of_change: Rows
    n_old: int
    new_keys: Rows

    @classmethod
    def of(cls, old_keys: Keys, keys: Rows) -> _Numbered:
        numbers = look_up(rows_by_key(old_keys), keys)
        is_new = numbers < 0
        new_keys = np.unique(keys[is_new])
        numbers[is_new] = old_keys.size + np.searchsorted(new_keys, keys[is_new])
        return cls(numbers, int(old_keys.size), new_keys)

    @property
    def size(self) -> int:
        return self.n_old + int(self.new_keys.size)


@dataclass(frozen=True, slots=True)
class _Side:
    """Users or items after the changes."""

    keys: Keys
    ids: Vocabulary
    row_of_number: Rows
    """Ascending for old ones; -1 for those without ratings."""
    counts: Offsets
    """Ratings of each row."""
    n_old: int
    n_removed: int

    @property
    def n_new(self) -> int:
        return int(self.keys.size) - self.n_old + self.n_removed

    def numbers(self) -> Rows:
        """Of each row."""
        has_row = self.row_of_number >= 0
        numbers = np.empty(self.keys.size, np.int32)
        numbers[self.row_of_number[has_row]] = np.flatnonzero(has_row)
        return numbers


@dataclass(frozen=True, slots=True)
class Merge:
    """A base and the changes to apply: everything is prepared except the ratings, most of the work."""

    base: Base
    all_changes: Changes
    last: Offsets
    """Indices of the last change of each pair, sorted by user and item number."""
    users: _Side
    items: _Side
    starts: Offsets
    """Start of each user's ratings in the result."""
    change_users: Rows
    change_items: Rows
    """Numbers of the last changes."""

    @property
    def n_removed(self) -> int:
        """Users and items that have no ratings any more."""
        return self.users.n_removed + self.items.n_removed

    def changes(self) -> Changes:
        """The last change of each pair."""
        return self.all_changes.at(self.last)

    def carry_out(self) -> tuple[Base, Ratings]:
        """The state after the changes; raises UnusableSnapshot if they contradict the base."""
        ratings = self._ratings()
        base = Base(
            user_starts=self.starts,
            item_rows=ratings.item_rows,
            values=ratings.values,
            user_keys=self.users.keys,
            item_keys=self.items.keys,
            item_counts=self.items.counts.astype(np.int32),
            user_ids=self.users.ids,
            item_ids=self.items.ids,
            revision=self.all_changes.revision,
        )
        return base, ratings

    def _ratings(self) -> Ratings:
        from app.training.snapshot.kernels import merge

        n, users, items = int(self.starts[-1]), self.users, self.items
        change_items, change_values = self.change_items, self.all_changes.values[self.last]
        marks, ranks = _among_old_items(items)
        if items.n_new:
            order = _order(self.change_users, ranks[change_items])
            change_items, change_values = change_items[order], change_values[order]
        change_starts = starts_of(np.bincount(self.change_users, minlength=users.row_of_number.size))
        merged = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        base, numbers = self.base, users.numbers()

        def work(first: int, end: int) -> int:
            old = base.user_starts, base.item_rows, base.values
            changes = change_starts, change_items, change_values
            names = numbers, items.row_of_number, marks
            return int(merge(*old, *changes, *names, self.starts, first, end, *merged))

        if n_inconsistent := sum(in_parts(self.starts, work)):
            raise UnusableSnapshot(f"the ratings of {n_inconsistent} users are inconsistent")
        return Ratings(*merged, int(users.keys.size), int(items.keys.size))


def is_among(numbers: npt.NDArray[np.int64], ascending: npt.NDArray[np.int64]) -> Mask:
    """Which of the numbers are in a sorted array; `np.isin` would build a hash table of it."""
    if not ascending.size:
        return np.zeros(numbers.size, np.bool_)
    indices = np.searchsorted(ascending, numbers).clip(max=ascending.size - 1)
    mask: Mask = ascending[indices] == numbers
    return mask


def plan_merge(base: Base, changes: Changes, find_ids: FindIds) -> Merge:
    """How to apply the changes, the last one of each pair; raises UnusableSnapshot."""
    from app.training.snapshot.kernels import find_pairs

    users = _Numbered.of(base.user_keys, changes.user_keys)
    items = _Numbered.of(base.item_keys, changes.item_keys)
    pairs = _pairs(users.of_change, items.of_change)
    order = _order(users.of_change, items.of_change)
    last = order[np.flatnonzero(np.diff(pairs[order], append=-1))]
    change_users, change_items = users.of_change[last], items.of_change[last]
    stored = np.empty(last.size, np.int64)

    def find(first: int, end: int) -> None:
        pairs = change_users[first:end], change_items[first:end]
        find_pairs(base.user_starts, base.item_rows, *pairs, stored[first:end])

    in_parts(np.arange(last.size + 1), find)
    deltas = (changes.values[last] != DELETED).astype(np.int64) - (stored >= 0)  # of the number of ratings
    old_counts = np.diff(base.user_starts)
    user_side = _side("user", base.user_keys, base.user_ids, old_counts, users, change_users, deltas, find_ids)
    item_side = _side("item", base.item_keys, base.item_ids, base.item_counts, items, change_items, deltas, find_ids)
    starts = starts_of(user_side.counts)
    return Merge(base, changes, last, user_side, item_side, starts, change_users, change_items)


def _pairs(users: Rows, items: Rows) -> npt.NDArray[np.int64]:
    return users.astype(np.int64) << 32 | items


def _order(users: Rows, items: Rows) -> Offsets:
    """Stable order by user, then item. Sorting numbers that hold their own index is faster than `np.argsort`."""
    if not users.size:
        return np.zeros(0, np.int64)
    item_bits, index_bits = int(items.max()).bit_length(), users.size.bit_length()
    if int(users.max()).bit_length() + item_bits + index_bits > 63:
        return np.lexsort((items, users))
    numbers = (users.astype(np.int64) << item_bits | items) << index_bits | np.arange(users.size)
    numbers.sort()
    return numbers & ((1 << index_bits) - 1)


def _side(
    kind: Literal["user", "item"],
    old_keys: Keys,
    old_ids: Vocabulary,
    old_counts: npt.NDArray[np.integer],
    numbered: _Numbered,
    changed: Rows,
    deltas: npt.NDArray[np.int64],
    find_ids: FindIds,
) -> _Side:
    n_old = numbered.n_old
    counts = np.bincount(changed, deltas, minlength=numbered.size).astype(np.int64)
    counts[:n_old] += old_counts
    is_rated = counts > 0
    new_keys = numbered.new_keys[is_rated[n_old:]].tolist()
    if is_rated[:n_old].all() and not new_keys:
        rows = np.full(numbered.size, _REMOVED, np.int32)
        rows[:n_old] = np.arange(n_old, dtype=np.int32)
        return _Side(old_keys, old_ids, rows, counts[:n_old], n_old, 0)
    ids = find_ids(kind, new_keys) if new_keys else {}
    if missing := set(new_keys) - ids.keys():
        raise UnusableSnapshot(f"a changed rating refers to a {kind} that does not exist (key {min(missing)})")
    keys, vocabulary, row_of_old = with_ids(old_keys, old_ids, is_rated[:n_old], ids)
    rows = np.concatenate([row_of_old, look_up(rows_by_key(keys), numbered.new_keys)])
    new_counts = np.empty(keys.size, np.int64)
    new_counts[rows[is_rated]] = counts[is_rated]
    return _Side(keys, vocabulary, rows, new_counts, n_old, int(n_old - is_rated[:n_old].sum()))


def with_ids(old_keys: Keys, old_ids: Vocabulary, stays: Mask, added: dict[int, str]) -> tuple[Keys, Vocabulary, Rows]:
    """The old ids where `stays` and the added ones, sorted: keys, vocabulary, and the row of each old id or -1."""
    old_text, old_offsets = old_ids.to_arrays()
    added_text, added_offsets = Vocabulary.of(added.values()).to_arrays()
    added_keys = sorted(added, key=lambda key: added[key].encode())
    found = old_ids.search([added[key] for key in added_keys])
    before = np.maximum(found, ~found)  # where to insert; an id may be here already, under the key of a removed one
    staying = np.flatnonzero(stays)
    positions = starts_of(stays)[before]
    keys = np.insert(old_keys[staying], positions, added_keys)
    lengths = np.insert(np.diff(old_offsets)[staying], positions, np.diff(added_offsets))
    sources = np.insert(old_offsets[staying], positions, old_text.size + added_offsets[:-1])
    offsets = starts_of(lengths)
    gathered = np.arange(offsets[-1]) + np.repeat(sources - offsets[:-1], lengths)
    text = np.concatenate([old_text, added_text])[gathered]
    row_of_old = np.full(old_keys.size, _REMOVED, np.int32)
    row_of_old[staying] = np.arange(staying.size) + np.searchsorted(before, staying, side="right")
    return keys, Vocabulary(text, offsets), row_of_old


def in_parts(starts: Offsets, work: Callable[[int, int], Part]) -> list[Part]:
    """work(first_user, end_user) in parallel, on parts with about the same number of ratings.

    starts: see `starts_of`
    """
    n_users = starts.size - 1
    bounds = np.searchsorted(starts, np.linspace(0, int(starts[-1]), _N_THREADS + 1)).clip(0, n_users).tolist()
    bounds[0], bounds[-1] = 0, n_users
    with ThreadPoolExecutor(_N_THREADS) as pool:
        return list(pool.map(work, bounds[:-1], bounds[1:]))


def _among_old_items(items: _Side) -> tuple[Rows, Rows]:
    """Of each number its mark (see `kernels.merge`), and its rank among old and new items; 0 for unrated new items."""
    n_old, n_numbers = items.n_old, items.row_of_number.size
    marks, ranks = np.zeros(n_numbers, np.int32), np.zeros(n_numbers, np.int32)
    marks[:n_old], ranks[:n_old] = 2 * np.arange(n_old) + 1, np.arange(n_old)
    new = n_old + np.flatnonzero(items.row_of_number[n_old:] >= 0)
    if not new.size:
        return marks, ranks
    new = new[np.argsort(items.row_of_number[new])]
    stays = items.row_of_number[:n_old] >= 0
    staying = np.append(np.flatnonzero(stays), n_old)
    next_old = staying[np.searchsorted(items.row_of_number[:n_old][stays], items.row_of_number[new])]
    marks[new], ranks[new] = 2 * next_old, next_old + np.arange(new.size)
    ranks[:n_old] += np.searchsorted(next_old, np.arange(n_old), side="right").astype(np.int32)
    return marks, ranks
