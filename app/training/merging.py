"""A snapshot of earlier, brought up to date with what has changed since.

Rows follow the outside ids, so old rows keep their order whoever comes or goes: one pass over both, already sorted,
gives what reading everything anew would give, bit by bit.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Mask, Offsets, Rows
from app.engine.dataset import Ratings, Vocabulary
from app.ratings.everything import Changes
from app.registry.artifacts import Keys, look_up, rows_by_key
from app.training.snapshot_file import Base, UnusableSnapshot

_N_THREADS = 2
_GONE = np.int32(-1)
Part = TypeVar("Part")

FindIds = Callable[[Literal["user", "item"], Sequence[int]], dict[int, str]]
"""The outside ids of keys that the snapshot does not know."""


@dataclass(frozen=True, slots=True)
class _Side:
    """Users or items after the changes."""

    keys: Keys
    ids: Vocabulary
    row_of_old: Rows
    """[n_old]: rises; -1 for those who have no ratings left."""
    n_gone: int

    @property
    def is_as_before(self) -> bool:
        return self.keys.size == self.row_of_old.size and self.n_gone == 0


@dataclass(frozen=True, slots=True)
class Merged:
    """The state after the changes."""

    base: Base
    ratings: Ratings
    n_gone: int
    """Users and items that the old state knew and this one does not."""


def latest(older: Changes, newer: Changes) -> Changes:
    """Both as one: of two changes of a pair the newer."""
    if not len(older):
        return newer
    pairs = np.sort(newer.user_keys.astype(np.int64) << 32 | newer.item_keys)
    old_pairs = older.user_keys.astype(np.int64) << 32 | older.item_keys
    kept = ~is_among(old_pairs, pairs)
    return Changes(
        np.concatenate([older.user_keys[kept], newer.user_keys]),
        np.concatenate([older.item_keys[kept], newer.item_keys]),
        np.concatenate([older.values[kept], newer.values]),
        np.concatenate([older.revisions[kept], newer.revisions]),
        newer.revision,
    )


def is_among(numbers: npt.NDArray[np.int64], rising: npt.NDArray[np.int64]) -> Mask:
    """Which of the numbers are among the others, which are sorted; NumPy's own way builds a hash table of them."""
    if not rising.size:
        return np.zeros(numbers.size, np.bool_)
    places = np.searchsorted(rising, numbers).clip(max=rising.size - 1)
    found: Mask = rising[places] == numbers
    return found


def merge_changes(base: Base, changes: Changes, find_ids: FindIds) -> Merged:
    """The base with the changes, each pair once, put over it; raises UnusableSnapshot where they contradict it."""
    deltas = _deltas(base, changes)
    old_counts = np.diff(base.user_starts)
    users = _side("user", base.user_keys, base.user_ids, old_counts, changes.user_keys, deltas, find_ids)
    items = _side("item", base.item_keys, base.item_ids, base.item_counts, changes.item_keys, deltas, find_ids)
    user_rows = look_up(rows_by_key(users.keys), changes.user_keys)
    item_rows = look_up(rows_by_key(items.keys), changes.item_keys)
    starts = np.zeros(users.keys.size + 1, np.int64)
    np.cumsum(_counts(users, old_counts, user_rows, deltas), out=starts[1:])
    ratings = _merged_ratings(base, users, items, starts, changes, user_rows, item_rows)
    item_counts = _counts(items, base.item_counts, item_rows, deltas).astype(np.int32)
    merged = Base(
        *(starts, ratings.item_rows, ratings.values, users.keys, items.keys, item_counts, users.ids, items.ids),
        revision=changes.revision,
    )
    return Merged(merged, ratings, users.n_gone + items.n_gone)


def _deltas(base: Base, changes: Changes) -> npt.NDArray[np.int64]:
    """By how much each change alters the number of its user's ratings, and of its item's: -1, 0 or 1."""
    from app.training.snapshot_kernels import find_places

    users = look_up(rows_by_key(base.user_keys), changes.user_keys)
    items = look_up(rows_by_key(base.item_keys), changes.item_keys)
    places = np.empty(len(changes), np.int64)

    def find(part: slice) -> None:
        find_places(base.user_starts, base.item_rows, users[part], items[part], places[part])

    bounds = np.linspace(0, len(changes), _N_THREADS + 1).astype(int).tolist()
    with ThreadPoolExecutor(_N_THREADS) as pool:
        list(pool.map(find, map(slice, bounds[:-1], bounds[1:])))
    return np.isfinite(changes.values).astype(np.int64) - (places >= 0)


def _side(
    kind: Literal["user", "item"],
    old_keys: Keys,
    old_ids: Vocabulary,
    old_counts: npt.NDArray[np.integer],
    changed_keys: npt.NDArray[np.int32],
    deltas: npt.NDArray[np.int64],
    find_ids: FindIds,
) -> _Side:
    rows = look_up(rows_by_key(old_keys), changed_keys)
    is_old = rows >= 0
    counts = old_counts + _sums(rows[is_old], deltas[is_old], old_keys.size)
    is_kept = counts > 0
    new_keys = np.unique(changed_keys[~is_old & (deltas > 0)]).tolist()
    if is_kept.all() and not new_keys:
        return _Side(old_keys, old_ids, np.arange(old_keys.size, dtype=np.int32), 0)
    ids = find_ids(kind, new_keys) if new_keys else {}
    if missing := set(new_keys) - ids.keys():
        raise UnusableSnapshot(f"ratings changed of a {kind} that has gone (key {min(missing)})")
    return _with_ids(old_keys, old_ids, is_kept, ids)


def _sums(rows: Rows, deltas: npt.NDArray[np.int64], n_rows: int) -> npt.NDArray[np.int64]:
    return np.bincount(rows, deltas, minlength=n_rows).astype(np.int64)


def _with_ids(old_keys: Keys, old_ids: Vocabulary, is_kept: Mask, added: dict[int, str]) -> _Side:
    """Old ids without those that are gone and with those that are new, in order."""
    text, offsets = old_ids.to_arrays()
    n_old = old_keys.size
    new = sorted((outside_id.encode(), key) for key, outside_id in added.items())
    encoded = [one for one, _ in new]

    def id_at(row: int) -> bytes:
        return text[offsets[row] : offsets[row + 1]].tobytes()

    before = np.array([bisect.bisect_left(range(n_old), one, key=id_at) for one in encoded], np.int64)
    place_among_kept = np.cumsum(is_kept) - 1
    shift = np.searchsorted(before, np.arange(n_old), side="right")
    row_of_old = np.where(is_kept, place_among_kept + shift, _GONE).astype(np.int32)
    n_kept_before = np.concatenate([[0], np.cumsum(is_kept)])[before]
    new_rows = n_kept_before + np.arange(before.size)
    keys = np.empty(int(is_kept.sum()) + len(new), np.int64)
    lengths = np.empty(keys.size, np.int64)
    keys[row_of_old[is_kept]], lengths[row_of_old[is_kept]] = old_keys[is_kept], np.diff(offsets)[is_kept]
    keys[new_rows], lengths[new_rows] = [key for _, key in new], [len(one) for one in encoded]
    new_offsets = np.zeros(keys.size + 1, np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    spliced = _splice(text, offsets, np.flatnonzero(~is_kept), before, encoded)
    return _Side(keys, Vocabulary(spliced, new_offsets), row_of_old, int(n_old - is_kept.sum()))


def _splice(
    text: npt.NDArray[np.uint8],
    offsets: Offsets,
    gone: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    encoded: list[bytes],
) -> npt.NDArray[np.uint8]:
    """The text with the ids of rows `gone` cut out and each new id put before its row."""
    whole = memoryview(text.data)
    cuts = [(row, 1, b"") for row in gone.tolist()]
    edits = sorted(cuts + [(row, 0, one) for row, one in zip(before.tolist(), encoded, strict=True)])
    pieces: list[bytes | memoryview] = []
    done = 0
    for row, n_cut, one in edits:
        pieces += [whole[done : int(offsets[row])], one]
        done = int(offsets[row + n_cut])
    pieces.append(whole[done:])
    return np.frombuffer(b"".join(pieces), np.uint8)


def _counts(
    side: _Side, old_counts: npt.NDArray[np.integer], rows: Rows, deltas: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Ratings of each row after the changes."""
    counts = np.zeros(side.keys.size, np.int64)
    is_kept = side.row_of_old >= 0
    counts[side.row_of_old[is_kept]] = old_counts[is_kept]
    is_here = rows >= 0
    return counts + _sums(rows[is_here], deltas[is_here], side.keys.size)


def _merged_ratings(
    base: Base, users: _Side, items: _Side, starts: Offsets, changes: Changes, user_rows: Rows, item_rows: Rows
) -> Ratings:
    from app.training.snapshot_kernels import merge

    n, n_users = int(starts[-1]), users.keys.size
    merged = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
    old_user_of = np.full(n_users, _GONE, np.int32)
    is_kept = users.row_of_old >= 0
    old_user_of[users.row_of_old[is_kept]] = np.flatnonzero(is_kept)
    marks, ranks = _among_old_items(base, items, changes, item_rows)
    order = np.argsort((user_rows.astype(np.int64) << 32) + ranks)[int((user_rows < 0).sum()) :]
    change_starts = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(user_rows[order], minlength=n_users), out=change_starts[1:])
    changed = change_starts, marks[order], item_rows[order], changes.values[order]
    old = base.user_starts, base.item_rows, base.values, old_user_of, items.row_of_old

    n_wrong = sum(in_parts(starts, lambda first, end: int(merge(*old, *changed, starts, first, end, *merged))))
    if n_wrong:
        raise UnusableSnapshot(f"the ratings of {n_wrong} users do not add up")
    return Ratings(*merged, n_users, int(items.keys.size))


def in_parts(starts: Offsets, work: Callable[[int, int], Part]) -> list[Part]:
    """work(first_user, end_user) of parts that hold about as many ratings, at the same time."""
    n_users = starts.size - 1
    bounds = np.searchsorted(starts, np.linspace(0, int(starts[-1]), _N_THREADS + 1)).clip(0, n_users).tolist()
    bounds[0], bounds[-1] = 0, n_users
    with ThreadPoolExecutor(_N_THREADS) as pool:
        return list(pool.map(work, bounds[:-1], bounds[1:]))


def _among_old_items(base: Base, items: _Side, changes: Changes, item_rows: Rows) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Where each change belongs among old items (see `snapshot_kernels.merge`), and its item's rank among all items."""
    old_rows = look_up(rows_by_key(base.item_keys), changes.item_keys)
    is_kept = items.row_of_old >= 0
    kept_rows, kept = items.row_of_old[is_kept], np.append(np.flatnonzero(is_kept), is_kept.size)
    next_old = kept[np.searchsorted(kept_rows, np.arange(items.keys.size))]  # of each item, itself where it is old
    new_rows = np.delete(np.arange(items.keys.size), kept_rows)
    n_new_up_to = np.searchsorted(next_old[new_rows], np.arange(is_kept.size), side="right")
    rank_of_new = np.zeros(items.keys.size, np.int64)
    rank_of_new[new_rows] = next_old[new_rows] + np.arange(new_rows.size)
    is_old, is_new = old_rows >= 0, (old_rows < 0) & (item_rows >= 0)
    marks, ranks = np.zeros(len(changes), np.int32), np.zeros(len(changes), np.int64)  # those of items never heard of
    marks[is_old], marks[is_new] = 2 * old_rows[is_old] + 1, 2 * next_old[item_rows[is_new]]
    ranks[is_old] = old_rows[is_old] + n_new_up_to[old_rows[is_old]]
    ranks[is_new] = rank_of_new[item_rows[is_new]]
    return marks, ranks
