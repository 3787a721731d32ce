"""What a run learns from: every rating at one moment, with rows that depend on the outside ids alone."""

from __future__ import annotations

import hashlib
import logging
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from app.db.engine import Database
from app.db.ids import Ids, ids_of_keys, read_ids
from app.db.revisions import revision
from app.engine.arrays import Mask, Matrix32, Offsets
from app.engine.data.ratings import Ratings, Vocabulary
from app.engine.data.statistics import count_rows
from app.ratings import bulk_read, store
from app.ratings.bulk_read import DELETED, AllRatings, Changes
from app.registry.artifacts import Keys, look_up, rows_by_key
from app.training.snapshot import file
from app.training.snapshot.categories import NO_CATEGORIES, Categorised, read_categories
from app.training.snapshot.file import Base, Files, StoredSnapshot, UnusableSnapshot
from app.training.snapshot.merge import Merge, in_parts, is_among, plan_merge, with_ids

log = logging.getLogger(__name__)

_READ_ANEW_ABOVE = 0.25
"""Changes, as a share of the ratings, beyond which reading everything is quicker than looking each one up."""
_WRITE_ANEW_ABOVE = 0.05
"""Changes, as a share of the ratings, beyond which the stored base is replaced."""
_N_PROBES = 100
"""Ratings looked up in the database to see that the snapshot is of this database and not of one that was replaced."""


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """The ratings and categories as of one revision. A user or an item has a row if and only if it has a rating; see
    `with_unrated_items`.

    Rows follow the outside ids in sorted order. So the same ratings give the same rows, and with the same seed the
    same model, in whatever order they were stored and whatever keys the database gave them.
    """

    ratings: Ratings
    user_keys: Keys
    item_keys: Keys
    user_ids: Vocabulary
    item_ids: Vocabulary
    revision: int
    changed: Offsets | None = None
    """Places of the ratings that are newer than the revision asked about, if one was."""
    categorised: Categorised = NO_CATEGORIES

    def with_unrated_items(self) -> TrainingSnapshot:
        """The same, where items that have categories have a row too: something is known of them."""
        keys, categorised = self.item_keys, self.categorised
        is_new = look_up(rows_by_key(keys), categorised.item_keys) < 0
        if not is_new.any():
            return self
        added = {int(categorised.item_keys[place]): categorised.item_ids[place] for place in np.flatnonzero(is_new)}
        item_keys, item_ids, new_rows = with_ids(keys, self.item_ids, np.ones(keys.size, np.bool_), added)
        ratings = replace(self.ratings, item_rows=new_rows[self.ratings.item_rows], n_items=item_keys.size)
        return replace(self, ratings=ratings, item_keys=item_keys, item_ids=item_ids)

    def item_features(self) -> Matrix32 | None:
        """Categories as features of the items, where there are any and each of their items has a row."""
        rows = look_up(rows_by_key(self.item_keys), self.categorised.item_keys)
        return self.categorised.features(rows, count_rows(self.ratings.item_rows, self.ratings.n_items))

    def digest(self) -> str:
        """SHA-256 over ids, ratings and categories: equal data, equal digest."""
        sha = hashlib.sha256()
        ratings = self.ratings
        arrays = (*self.user_ids.to_arrays(), *self.item_ids.to_arrays())
        for array in (*arrays, ratings.user_rows, ratings.item_rows, ratings.values):
            sha.update(f"{array.dtype.str} {array.size}\n".encode())
            sha.update(np.ascontiguousarray(array).data)
        if len(self.categorised):
            sha.update(self.categorised.told())
        return sha.hexdigest()

    def holdout_mask(self, fraction: float) -> Mask:
        """Which ratings are held out: those whose user and item ids hash into the first `fraction` of all numbers.

        A rating is held out by what it is and not by a draw, so every run with this or a larger fraction holds it
        out, also when there are more ratings by then. That lets two versions be compared on ratings that neither
        has learned from.
        """
        from app.training.snapshot.kernels import hold_out

        mask = np.empty(len(self.ratings), np.bool_)
        hashes = _hashes(self.user_ids), _hashes(self.item_ids)
        hold_out(self.ratings.user_rows, self.ratings.item_rows, *hashes, np.uint64(fraction * 2.0**64), mask)
        return mask


def take_snapshot(
    database: Database, folder: Path | None = None, *, changed_since: int | None = None
) -> TrainingSnapshot:
    """Everything as of one moment: what is stored in the folder and what has changed since, or all of it anew.

    With `changed_since`, the snapshot says which ratings are newer than that revision.
    """
    if folder:
        try:
            if snapshot := _brought_up_to_date(database, folder, changed_since):
                return snapshot
        except UnusableSnapshot as unusable:
            log.warning("the stored snapshot of the ratings is not used: %s", unusable)
            file.discard(folder)
    with database.read() as connection:
        base, ratings = _read_everything(connection)
        newer = None if changed_since is None else bulk_read.changes_since(connection, changed_since)
        categorised = read_categories(connection)
    if folder:
        _store(folder, base, _nothing(base.revision))
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


def _brought_up_to_date(database: Database, folder: Path, changed_since: int | None) -> TrainingSnapshot | None:
    """What is stored, with what is newer; None where nothing is stored; raises UnusableSnapshot.

    The database is asked while the stored bytes are checked, and again while the changes are merged.
    """
    with file.opened(folder) as opened, database.read() as connection:
        if opened is None:
            return None
        bulk_read.hold_snapshot(connection)
        since = opened.revision if changed_since is None else min(opened.revision, changed_since)
        newest = revision(connection, "ratings")
        if newest < opened.revision:
            raise UnusableSnapshot(f"the database is at revision {newest}, the snapshot at {opened.revision}")
        if newest - since > _READ_ANEW_ABOVE * opened.n_ratings:
            raise UnusableSnapshot(f"{newest - since} changes are more than are worth looking up")
        newer = bulk_read.changes_since(connection, since)
        stored = opened.checked()
        pending = _both(stored.changes, _where(newer, newer.revisions > stored.base.revision))
        plan = plan_merge(stored.base, pending, lambda kind, keys: ids_of_keys(connection, kind, keys))
        with ThreadPoolExecutor(1) as beside:
            merging = beside.submit(plan.carry_out)
            changes = plan.changes()
            _compare(connection, plan, changes)
            categorised = read_categories(connection)
            merged = merging.result()
    if newer.revision > opened.revision:
        _store_merged(folder, stored, changes, merged.base, is_anybody_gone=plan.n_gone > 0)
    return replace(_as_snapshot(merged.base, merged.ratings, newer, changed_since), categorised=categorised)


def _store_merged(
    folder: Path, stored: StoredSnapshot, changes: Changes, merged: Base, *, is_anybody_gone: bool
) -> None:
    """Only the changes where they are few; all of it where they are many, or where somebody has gone for good."""
    if is_anybody_gone or len(changes) > _WRITE_ANEW_ABOVE * stored.base.values.size:
        _store(folder, merged, _nothing(merged.revision))
    else:
        _store(folder, stored.base, changes, stored.files)


def _compare(connection: Connection, plan: Merge, changes: Changes) -> None:
    """Raises UnusableSnapshot unless the number of ratings, and some unchanged ones, are the database's."""
    n_stored, n_merged = store.totals(connection).n_ratings, int(plan.starts[-1])
    if n_stored != n_merged:
        raise UnusableSnapshot(f"it gives {n_merged} ratings where the database has {n_stored}")
    _probe(connection, plan.base, changes)


def _probe(connection: Connection, base: Base, pending: Changes) -> None:
    """Raises UnusableSnapshot unless a hundred unchanged ratings of the base are the database's too."""
    if not base.values.size:
        return
    places = np.unique(np.linspace(0, base.values.size - 1, _N_PROBES).astype(np.int64))
    users = base.user_keys[np.searchsorted(base.user_starts, places, side="right") - 1]
    pairs = users << 32 | base.item_keys[base.item_rows[places]]
    order = np.argsort(pairs)
    pairs, places = pairs[order], places[order]
    changed = pending.user_keys.astype(np.int64) << 32 | pending.item_keys
    is_unchanged = ~is_among(pairs, np.sort(changed[is_among(changed, pairs)]))
    pairs, places = pairs[is_unchanged], places[is_unchanged]
    values = bulk_read.values_of_pairs(connection, pairs >> 32, pairs & 0xFFFFFFFF)
    if not np.array_equal(values, base.values[places]):
        raise UnusableSnapshot("ratings in it are not in the database: it belongs to another one")


def _store(folder: Path, base: Base, changes: Changes, stored: Files | None = None) -> None:
    try:
        file.write(folder, base, changes, stored=stored)
    except OSError as error:  # a full disk costs time in the next run, and nothing else
        log.warning("the snapshot of the ratings cannot be stored: %s", error)


def _as_snapshot(base: Base, ratings: Ratings, newer: Changes | None, changed_since: int | None) -> TrainingSnapshot:
    changed = None
    if newer is not None and changed_since is not None:
        changed = _places(base, _where(newer, (newer.revisions > changed_since) & (newer.values != DELETED)))
    facts = base.user_keys, base.item_keys, base.user_ids, base.item_ids, base.revision
    return TrainingSnapshot(ratings, *facts, changed)


def _places(base: Base, changes: Changes) -> Offsets:
    from app.training.snapshot.kernels import find_places

    places = np.empty(len(changes), np.int64)
    users = look_up(rows_by_key(base.user_keys), changes.user_keys)
    items = look_up(rows_by_key(base.item_keys), changes.item_keys)
    find_places(base.user_starts, base.item_rows, users, items, places)
    return np.sort(places[places >= 0])


def _both(older: Changes, newer: Changes) -> Changes:
    """One after the other."""
    if not len(older):
        return newer
    return Changes(
        np.concatenate([older.user_keys, newer.user_keys]),
        np.concatenate([older.item_keys, newer.item_keys]),
        np.concatenate([older.values, newer.values]),
        np.concatenate([older.revisions, newer.revisions]),
        newer.revision,
    )


def _where(changes: Changes, mask: Mask) -> Changes:
    return changes if mask.all() else changes.at(np.flatnonzero(mask))


def _nothing(newest: int) -> Changes:
    keys = np.zeros(0, np.int32)
    return Changes(keys, keys, np.zeros(0, np.float32), np.zeros(0, np.int64), newest)


def _read_everything(connection: Connection) -> tuple[Base, Ratings]:
    found = bulk_read.load_all(connection)  # holds this state of the data for the two that follow
    user_keys, user_ids = _with_rows(read_ids(connection, "user"), found.user_keys)
    item_keys, item_ids = _with_rows(read_ids(connection, "item"), found.item_keys)
    user_starts, ratings = _sorted(found, user_keys, item_keys)
    item_counts = count_rows(ratings.item_rows, ratings.n_items)
    sides = user_keys, item_keys, item_counts, user_ids, item_ids
    return Base(user_starts, ratings.item_rows, ratings.values, *sides, revision=found.revision), ratings


def _sorted(found: AllRatings, user_keys: Keys, item_keys: Keys) -> tuple[Offsets, Ratings]:
    """Where each user's ratings begin, and all in canonical order; 8 bytes a rating besides what was found."""
    from app.training.snapshot.kernels import first_flaw, gather_users, rename, sort_within_users

    n_users = user_keys.size
    user_rows, bits = found.user_keys, found.values.view(np.uint32)
    if unknown := rename(user_rows, rows_by_key(user_keys)) + rename(found.item_keys, rows_by_key(item_keys)):
        raise ValueError(f"{unknown} ratings are of a user or an item that does not exist")
    starts = np.zeros(n_users + 1, np.int64)
    np.cumsum(count_rows(user_rows, n_users), out=starts[1:])
    item_rows, values = np.empty_like(found.item_keys), np.empty_like(found.values)
    gather_users(user_rows, found.item_keys, bits, starts[:-1].copy(), item_rows, values.view(np.uint32))
    sorted_bits = values.view(np.uint32)
    in_parts(starts, lambda first, end: sort_within_users(starts, first, end, user_rows, item_rows, sorted_bits))
    if (at := first_flaw(user_rows, item_rows, values)) >= 0:
        raise ValueError(f"a rating cannot be learned from: number {at}, {values[at]}")
    return starts, Ratings(user_rows, item_rows, values, n_users, item_keys.size)


def _with_rows(known: Ids, rated: npt.NDArray[np.integer]) -> tuple[Keys, Vocabulary]:
    """Of all keys and their outside ids those that are rated: keys in row order, and the vocabulary of the rows."""
    is_rated = np.zeros(int(max(known.keys.max(initial=0), rated.max(initial=0))) + 1, np.bool_)
    is_rated[rated] = True
    places = np.flatnonzero(is_rated[known.keys])
    ids = [known.ids[place] for place in places.tolist()]
    vocabulary = Vocabulary.of(ids)
    by_row = np.empty(len(ids), np.int64)
    by_row[vocabulary.rows_of(ids)] = known.keys[places]
    return by_row, vocabulary


def _hashes(ids: Vocabulary) -> npt.NDArray[np.uint64]:
    """CRC-32 of each row's id."""
    text, offsets = ids.to_arrays()
    joined, ends = text.tobytes(), offsets.tolist()
    crcs = (zlib.crc32(joined[start:end]) for start, end in pairwise(ends))
    return np.fromiter(crcs, np.uint64, len(ids))
