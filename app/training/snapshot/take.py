"""The ratings that a run learns from, as of one revision, with rows that depend on the outside ids alone."""

from __future__ import annotations

import hashlib
import logging
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from app.db.engine import Database
from app.db.ids import Ids, read_ids
from app.engine.arrays import Mask, Matrix32, Offsets, starts_of
from app.engine.data.id_search import look_up, rows_by_key
from app.engine.data.ratings import Ratings, Vocabulary
from app.engine.data.statistics import count_rows
from app.ratings import bulk_read
from app.ratings.bulk_read import DELETED, AllRatings, Changes
from app.registry.artifacts import Keys
from app.training.snapshot import file
from app.training.snapshot.categories import NO_CATEGORIES, Categorised, read_categories
from app.training.snapshot.file import Base, UnusableSnapshot
from app.training.snapshot.merge import in_parts, with_ids
from app.training.snapshot.update import no_changes, store_snapshot, update_stored, where

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """The ratings and categories as of one revision. Users and items have rows if they have ratings; for other items
    see `with_unrated_items`.

    Rows follow the outside ids in sorted order. So the same ratings give the same rows, and with the same seed the
    same model, whatever the order and the keys in the database.
    """

    ratings: Ratings
    user_keys: Keys
    item_keys: Keys
    user_ids: Vocabulary
    item_ids: Vocabulary
    revision: int
    changed: Offsets | None = None
    """Indices of the ratings that are newer than `changed_since`; None if that was not specified."""
    categorised: Categorised = NO_CATEGORIES

    def with_unrated_items(self) -> TrainingSnapshot:
        """The same snapshot, in which items with categories but without ratings have a row too."""
        keys, categorised = self.item_keys, self.categorised
        is_new = look_up(rows_by_key(keys), categorised.item_keys) < 0
        if not is_new.any():
            return self
        added = {int(categorised.item_keys[i]): categorised.item_ids[i] for i in np.flatnonzero(is_new)}
        item_keys, item_ids, new_rows = with_ids(keys, self.item_ids, np.ones(keys.size, np.bool_), added)
        ratings = replace(self.ratings, item_rows=new_rows[self.ratings.item_rows], n_items=item_keys.size)
        return replace(self, ratings=ratings, item_keys=item_keys, item_ids=item_ids)

    def item_features(self) -> Matrix32 | None:
        """Categories as features of the items, if there are any. Every item with categories must have a row."""
        rows = look_up(rows_by_key(self.item_keys), self.categorised.item_keys)
        return self.categorised.features(rows, count_rows(self.ratings.item_rows, self.ratings.n_items))

    def digest(self) -> str:
        """SHA-256 of ids, ratings and categories."""
        sha = hashlib.sha256()
        ratings = self.ratings
        arrays = (*self.user_ids.to_arrays(), *self.item_ids.to_arrays())
        for array in (*arrays, ratings.user_rows, ratings.item_rows, ratings.values):
            sha.update(f"{array.dtype.str} {array.size}\n".encode())
            sha.update(np.ascontiguousarray(array).data)
        if len(self.categorised):
            sha.update(self.categorised.to_bytes())
        return sha.hexdigest()

    def holdout_mask(self, fraction: float) -> Mask:
        """Which ratings are held out: those whose user and item ids hash into the first `fraction` of all hashes.

        This depends on the ids alone, so every run with this or a larger fraction holds the same ratings out, also
        when there are more ratings by then. So two versions can be compared on ratings that neither has learned from.
        """
        from app.training.snapshot.kernels import hold_out

        mask = np.empty(len(self.ratings), np.bool_)
        hashes = _hashes(self.user_ids), _hashes(self.item_ids)
        hold_out(self.ratings.user_rows, self.ratings.item_rows, *hashes, np.uint64(fraction * 2.0**64), mask)
        return mask


def take_snapshot(
    database: Database, folder: Path | None = None, *, changed_since: int | None = None
) -> TrainingSnapshot:
    """All ratings as of one revision: the stored snapshot with the changes since, or read from the database.

    With `changed_since`, the snapshot says which ratings are newer than that revision.
    """
    if folder:
        try:
            if updated := update_stored(database, folder, changed_since):
                snapshot = _as_snapshot(updated.base, updated.ratings, updated.newer, changed_since)
                return replace(snapshot, categorised=updated.categorised)
        except UnusableSnapshot as unusable:
            log.warning("the stored snapshot of the ratings is not used: %s", unusable)
            file.discard(folder)
    with database.read() as connection:
        base, ratings = _read_all(connection)
        newer = None if changed_since is None else bulk_read.changes_since(connection, changed_since)
        categorised = read_categories(connection)
    if folder:
        store_snapshot(folder, base, no_changes(base.revision))
    return replace(_as_snapshot(base, ratings, newer, changed_since), categorised=categorised)


def split(ratings: Ratings, mask: Mask) -> tuple[Ratings, Ratings]:
    """The ratings outside the mask, and those inside."""
    from app.training.snapshot.kernels import take_where

    parts = []
    for chosen in (~mask, mask):
        n = int(chosen.sum())
        part = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32)
        take_where(chosen, ratings.user_rows, ratings.item_rows, ratings.values, *part)
        parts.append(Ratings(*part, ratings.n_users, ratings.n_items))
    return parts[0], parts[1]


def _as_snapshot(base: Base, ratings: Ratings, newer: Changes | None, changed_since: int | None) -> TrainingSnapshot:
    changed = None
    if newer is not None and changed_since is not None:
        changed = _indices_of(base, where(newer, (newer.revisions > changed_since) & (newer.values != DELETED)))
    facts = base.user_keys, base.item_keys, base.user_ids, base.item_ids, base.revision
    return TrainingSnapshot(ratings, *facts, changed)


def _indices_of(base: Base, changes: Changes) -> Offsets:
    from app.training.snapshot.kernels import find_pairs

    indices = np.empty(len(changes), np.int64)
    users = look_up(rows_by_key(base.user_keys), changes.user_keys)
    items = look_up(rows_by_key(base.item_keys), changes.item_keys)
    find_pairs(base.user_starts, base.item_rows, users, items, indices)
    return np.sort(indices[indices >= 0])


def _read_all(connection: Connection) -> tuple[Base, Ratings]:
    stored = bulk_read.load_all(connection)  # the reads below see the same state of the data
    user_keys, user_ids = _rated_ids(read_ids(connection, "user"), stored.user_keys)
    item_keys, item_ids = _rated_ids(read_ids(connection, "item"), stored.item_keys)
    user_starts, ratings = _sorted(stored, user_keys, item_keys)
    item_counts = count_rows(ratings.item_rows, ratings.n_items)
    sides = user_keys, item_keys, item_counts, user_ids, item_ids
    return Base(user_starts, ratings.item_rows, ratings.values, *sides, revision=stored.revision), ratings


def _sorted(stored: AllRatings, user_keys: Keys, item_keys: Keys) -> tuple[Offsets, Ratings]:
    """Start of each user's ratings, and the ratings in canonical order. Reuses `stored`; 8 more bytes a rating."""
    from app.training.snapshot.kernels import first_flaw, gather_users, rename, sort_within_users

    user_rows, bits = stored.user_keys, stored.values.view(np.uint32)
    if unknown := rename(user_rows, rows_by_key(user_keys)) + rename(stored.item_keys, rows_by_key(item_keys)):
        raise ValueError(f"{unknown} ratings refer to a user or an item that does not exist")
    starts = starts_of(count_rows(user_rows, user_keys.size))
    item_rows, values = np.empty_like(stored.item_keys), np.empty_like(stored.values)
    gather_users(user_rows, stored.item_keys, bits, starts[:-1].copy(), item_rows, values.view(np.uint32))
    sorted_bits = values.view(np.uint32)
    in_parts(starts, lambda first, end: sort_within_users(starts, first, end, user_rows, item_rows, sorted_bits))
    if (index := first_flaw(user_rows, item_rows, values)) >= 0:
        raise ValueError(f"rating number {index} is repeated or not finite: {values[index]}")
    return starts, Ratings(user_rows, item_rows, values, user_keys.size, item_keys.size)


def _rated_ids(all_ids: Ids, rated: npt.NDArray[np.integer]) -> tuple[Keys, Vocabulary]:
    """The keys of rated users or items in row order, and the vocabulary of their ids."""
    is_rated = np.zeros(int(max(all_ids.keys.max(initial=0), rated.max(initial=0))) + 1, np.bool_)
    is_rated[rated] = True
    indices = np.flatnonzero(is_rated[all_ids.keys])
    ids = [all_ids.ids[index] for index in indices.tolist()]
    vocabulary = Vocabulary.of(ids)
    keys = np.empty(len(ids), np.int64)
    keys[vocabulary.rows_of(ids)] = all_ids.keys[indices]
    return keys, vocabulary


def _hashes(ids: Vocabulary) -> npt.NDArray[np.uint64]:
    """CRC-32 of each row's id."""
    text, offsets = ids.to_arrays()
    joined, ends = text.tobytes(), offsets.tolist()
    crcs = (zlib.crc32(joined[start:end]) for start, end in pairwise(ends))
    return np.fromiter(crcs, np.uint64, len(ids))
