"""A snapshot of earlier, brought up to date with what has changed since.

Rows follow the outside ids, so old rows keep their order whoever comes or goes: one pass over both, already sorted,
gives what reading everything anew would give, bit by bit. Until it is known who comes and who goes, users and items
of the changes have numbers: their old rows, and for those without one the numbers from there on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Mask, Offsets, Rows, Vector32
from app.engine.data.ratings import Ratings, Vocabulary
from app.ratings.bulk_read import Changes
from app.registry.artifacts import Keys, look_up, rows_by_key
from app.training.snapshot.file import Base, UnusableSnapshot

_N_THREADS = min(4, os.cpu_count() or 1)
_GONE = np.int32(-1)
Part = TypeVar("Part")

FindIds = Callable[[Literal["user", "item"], Sequence[int]], dict[int, str]]
"""The outside ids of keys that the snapshot does not know."""


@dataclass(frozen=True, slots=True)
class _Numbered:
    """Of users or items: the number of each change's, and the keys behind the numbers that are no old rows."""

    of_change: Rows
    n_old: int
    new_keys: Rows

    @property
    def size(self) -> int:
        return self.n_old + int(self.new_keys.size)


@dataclass(frozen=True, slots=True)
class _Side:
    """Users or items after the changes."""

    keys: Keys
    ids: Vocabulary
    row_of_number: Rows
    """Rises with the old ones; -1 for those who have no ratings."""
    counts: Offsets
    """Ratings of each row."""
    n_old: int
    n_gone: int

    @property
    def n_new(self) -> int:
        return int(self.keys.size) - self.n_old + self.n_gone

    def numbers(self) -> Rows:
        """Of each row."""
        is_here = self.row_of_number >= 0
        numbers = np.empty(self.keys.size, np.int32)
        numbers[self.row_of_number[is_here]] = np.flatnonzero(is_here)
        return numbers


@dataclass(frozen=True, slots=True)
class Merged:
    """The state after the changes."""

    base: Base
    ratings: Ratings


@dataclass(frozen=True, slots=True)
class Merge:
    """A base and what is put over it: everything is known but the ratings, which are the bulk of the work."""

    base: Base
    given: Changes
    counted: Offsets
    """Which of the given changes count, user by user: the last of each pair."""
    users: _Side
    items: _Side
    starts: Offsets
    """Where each user's ratings will begin."""
    change_starts: Offsets
    change_items: Rows

    @property
    def n_gone(self) -> int:
        """Users and items that the base knows and the merged state does not."""
        return self.users.n_gone + self.items.n_gone

    def changes(self) -> Changes:
        """Those that count."""
        return self.given.at(self.counted)

    def carry_out(self) -> Merged:
        """The merged ratings; raises UnusableSnapshot where the changes contradict the base."""
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
            revision=self.given.revision,
        )
        return Merged(base, ratings)

    def _ratings(self) -> Ratings:
        from app.training.snapshot.kernels import merge, order_within_users

        n, users, items = int(self.starts[-1]), self.users, self.items
        change_items, change_values = self.change_items, self.given.values[self.counted]
        marks, ranks = _among_old_items(items)
        if items.n_new:
            order = np.empty(change_items.size, np.int64)
            order_within_users(self.change_starts, change_items, ranks, order)
            change_items, change_values = change_items[order], change_values[order]
        merged = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        base, numbers = self.base, users.numbers()

        def work(first: int, end: int) -> int:
            old = base.user_starts, base.item_rows, base.values
            over = self.change_starts, change_items, change_values
            names = numbers, items.row_of_number, marks
            return int(merge(*old, *over, *names, self.starts, first, end, *merged))

        if n_wrong := sum(in_parts(self.starts, work)):
            raise UnusableSnapshot(f"the ratings of {n_wrong} users do not add up")
        return Ratings(*merged, int(users.keys.size), int(items.keys.size))


def is_among(numbers: npt.NDArray[np.int64], rising: npt.NDArray[np.int64]) -> Mask:
    """Which of the numbers are among the others, which are sorted; NumPy's own way builds a hash table of them."""
    if not rising.size:
        return np.zeros(numbers.size, np.bool_)
    places = np.searchsorted(rising, numbers).clip(max=rising.size - 1)
    found: Mask = rising[places] == numbers
    return found


def plan_merge(base: Base, changes: Changes, find_ids: FindIds) -> Merge:
    """What the base becomes by the changes, of which the later ones of a pair count; raises UnusableSnapshot."""
    from app.training.snapshot.kernels import group_changes

    users = _numbered(base.user_keys, changes.user_keys)
    items = _numbered(base.item_keys, changes.item_keys)
    change_starts, order = np.empty(users.size + 1, np.int64), np.empty(len(changes), np.int64)
    order = order[: group_changes(users.of_change, items.of_change, change_starts, order)]
    change_users, change_items = users.of_change[order], items.of_change[order]
    deltas = _deltas(base, change_starts, change_items, changes.values[order])
    old_counts = np.diff(base.user_starts)
    user_side = _side("user", base.user_keys, base.user_ids, old_counts, users, change_users, deltas, find_ids)
    item_side = _side("item", base.item_keys, base.item_ids, base.item_counts, items, change_items, deltas, find_ids)
    starts = np.zeros(user_side.keys.size + 1, np.int64)
    np.cumsum(user_side.counts, out=starts[1:])
    return Merge(base, changes, order, user_side, item_side, starts, change_starts, change_items)


def _numbered(old_keys: Keys, keys: Rows) -> _Numbered:
    from app.training.snapshot.kernels import number_rows

    largest = max(int(old_keys.max(initial=0)), int(keys.max(initial=0)))
    table = np.full(largest + 1, _GONE, np.int32)
    table[old_keys] = np.arange(old_keys.size, dtype=np.int32)
    numbers, new_keys = np.empty(keys.size, np.int32), np.empty(keys.size, np.int32)
    n_new = number_rows(keys, table, old_keys.size, numbers, new_keys)
    return _Numbered(numbers, int(old_keys.size), new_keys[:n_new])


def _deltas(base: Base, change_starts: Offsets, change_items: Rows, change_values: Vector32) -> Rows:
    """By how much each change alters the number of its user's ratings, and of its item's: -1, 0 or 1."""
    from app.training.snapshot.kernels import weigh_changes

    deltas = np.empty(change_items.size, np.int32)

    def work(first: int, end: int) -> None:
        changes = change_starts, change_items, change_values
        weigh_changes(base.user_starts, base.item_rows, *changes, first, end, deltas)

    in_parts(change_starts, work)
    return deltas


def _side(
    kind: Literal["user", "item"],
    old_keys: Keys,
    old_ids: Vocabulary,
    old_counts: npt.NDArray[np.integer],
    numbered: _Numbered,
    changed: Rows,
    deltas: Rows,
    find_ids: FindIds,
) -> _Side:
    from app.training.snapshot.kernels import add_at

    n_old, counts = numbered.n_old, np.zeros(numbered.size, np.int64)
    counts[:n_old] = old_counts
    add_at(changed, deltas, counts)
    is_here = counts > 0
    new_keys = numbered.new_keys[is_here[n_old:]].tolist()
    if is_here[:n_old].all() and not new_keys:
        rows = np.full(numbered.size, _GONE, np.int32)
        rows[:n_old] = np.arange(n_old, dtype=np.int32)
        return _Side(old_keys, old_ids, rows, counts[:n_old], n_old, 0)
    ids = find_ids(kind, new_keys) if new_keys else {}
    if missing := set(new_keys) - ids.keys():
        raise UnusableSnapshot(f"ratings changed of a {kind} that has gone (key {min(missing)})")
    keys, vocabulary, row_of_old = with_ids(old_keys, old_ids, is_here[:n_old], ids)
    rows = np.concatenate([row_of_old, look_up(rows_by_key(keys), numbered.new_keys)])
    new_counts = np.empty(keys.size, np.int64)
    new_counts[rows[is_here]] = counts[is_here]
    return _Side(keys, vocabulary, rows, new_counts, n_old, int(n_old - is_here[:n_old].sum()))


def with_ids(
    old_keys: Keys, old_ids: Vocabulary, is_kept: Mask, added: dict[int, str]
) -> tuple[Keys, Vocabulary, Rows]:
    """Old ids without those that are gone and with those that are new, in order; and the row of each old one."""
    from app.training.snapshot.kernels import copy_ids, place_ids

    added_ids = Vocabulary.of(added.values())
    n_old, n_added = old_keys.size, len(added_ids)
    before = np.empty(n_added, np.int64)
    place_ids(*old_ids.to_arrays(), *added_ids.to_arrays(), before)
    n_kept_before = np.concatenate([[0], np.cumsum(is_kept)])
    shift = np.searchsorted(before, np.arange(n_old), side="right")
    row_of_old = np.where(is_kept, n_kept_before[:-1] + shift, _GONE).astype(np.int32)
    row_of_added = (n_kept_before[before] + np.arange(n_added)).astype(np.int32)
    keys, lengths = np.empty((2, int(n_kept_before[-1]) + n_added), np.int64)
    kept_rows = row_of_old[is_kept]
    keys[kept_rows], lengths[kept_rows] = old_keys[is_kept], np.diff(old_ids.to_arrays()[1])[is_kept]
    keys[row_of_added] = [key for _, key in sorted((one.encode(), key) for key, one in added.items())]
    lengths[row_of_added] = np.diff(added_ids.to_arrays()[1])
    offsets = np.zeros(keys.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    text = np.empty(int(offsets[-1]), np.uint8)
    copy_ids(*old_ids.to_arrays(), row_of_old, offsets, text)
    copy_ids(*added_ids.to_arrays(), row_of_added, offsets, text)
    return keys, Vocabulary(text, offsets), row_of_old


def in_parts(starts: Offsets, work: Callable[[int, int], Part]) -> list[Part]:
    """work(first_user, end_user) of parts that hold about as many ratings, at the same time."""
    n_users = starts.size - 1
    bounds = np.searchsorted(starts, np.linspace(0, int(starts[-1]), _N_THREADS + 1)).clip(0, n_users).tolist()
    bounds[0], bounds[-1] = 0, n_users
    with ThreadPoolExecutor(_N_THREADS) as pool:
        return list(pool.map(work, bounds[:-1], bounds[1:]))


def _among_old_items(items: _Side) -> tuple[Rows, Rows]:
    """Of each number: where the item belongs among old items (see `snapshot_kernels.merge`), and its rank among all."""
    n_old, n_numbers = items.n_old, items.row_of_number.size
    marks, ranks = np.zeros(n_numbers, np.int32), np.zeros(n_numbers, np.int32)  # those of items never heard of
    marks[:n_old], ranks[:n_old] = 2 * np.arange(n_old) + 1, np.arange(n_old)
    new = n_old + np.flatnonzero(items.row_of_number[n_old:] >= 0)
    if not new.size:
        return marks, ranks
    new = new[np.argsort(items.row_of_number[new])]
    is_kept = items.row_of_number[:n_old] >= 0
    kept = np.append(np.flatnonzero(is_kept), n_old)
    next_old = kept[np.searchsorted(items.row_of_number[:n_old][is_kept], items.row_of_number[new])]
    marks[new], ranks[new] = 2 * next_old, next_old + np.arange(new.size)
    ranks[:n_old] += np.searchsorted(next_old, np.arange(n_old), side="right").astype(np.int32)
    return marks, ranks
