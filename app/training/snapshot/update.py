"""Brings the snapshot that is stored on disk up to date with the ratings changed since, and stores it again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from app.db.engine import Database
from app.db.ids import ids_of_keys
from app.db.revisions import revision
from app.engine.arrays import Mask
from app.engine.data.ratings import Ratings
from app.ratings import bulk_read, store
from app.ratings.bulk_read import Changes
from app.training.snapshot import file
from app.training.snapshot.categories import Categorised, read_categories
from app.training.snapshot.file import Base, Files, StoredSnapshot, UnusableSnapshot
from app.training.snapshot.merge import Merge, is_among, plan_merge

log = logging.getLogger(__name__)

_READ_ALL_ABOVE = 0.25
"""If more than this share of the ratings has changed, reading all ratings is faster than applying the changes."""
_WRITE_ALL_ABOVE = 0.05
"""If more than this share of the ratings has changed, the stored base is replaced."""
_N_PROBES = 100
"""Ratings compared with the database, to detect a snapshot of another database."""


class Updated(NamedTuple):
    """The ratings as of now, and the changes that were read for them."""

    base: Base
    ratings: Ratings
    newer: Changes
    categorised: Categorised


def update_stored(database: Database, folder: Path, changed_since: int | None) -> Updated | None:
    """The stored snapshot with the changes since; None if nothing is stored; raises UnusableSnapshot.

    The database is queried while threads verify the stored bytes, and again while they merge the changes.
    """
    with file.opened(folder) as opened, database.read() as connection:
        if opened is None:
            return None
        bulk_read.hold_snapshot(connection)
        since = opened.revision if changed_since is None else min(opened.revision, changed_since)
        newest = revision(connection, "ratings")
        if newest < opened.revision:
            raise UnusableSnapshot(f"the database is at revision {newest}, the snapshot at {opened.revision}")
        if newest - since > _READ_ALL_ABOVE * opened.n_ratings:
            raise UnusableSnapshot(f"{newest - since} changes are too many to apply")
        newer = bulk_read.changes_since(connection, since)
        stored = opened.verified()
        pending = _both(stored.changes, where(newer, newer.revisions > stored.base.revision))
        plan = plan_merge(stored.base, pending, lambda kind, keys: ids_of_keys(connection, kind, keys))
        with ThreadPoolExecutor(1) as pool:
            merging = pool.submit(plan.carry_out)
            changes = plan.changes()
            _compare(connection, plan, changes)
            categorised = read_categories(connection)
            merged, ratings = merging.result()
    if newer.revision > opened.revision:
        _store_merged(folder, stored, changes, merged, must_forget=plan.n_removed > 0)
    return Updated(merged, ratings, newer, categorised)


def _store_merged(folder: Path, stored: StoredSnapshot, changes: Changes, merged: Base, *, must_forget: bool) -> None:
    """Stores only the changes if they are few and no user or item was removed; else the whole snapshot."""
    if must_forget or len(changes) > _WRITE_ALL_ABOVE * stored.base.values.size:
        store_snapshot(folder, merged, no_changes(merged.revision))
    else:
        store_snapshot(folder, stored.base, changes, stored.files)


def _compare(connection: Connection, plan: Merge, pending: Changes) -> None:
    """Raises UnusableSnapshot unless the database has as many ratings, and the same value for some unchanged ones."""
    n_stored, n_merged, base = store.totals(connection).n_ratings, int(plan.starts[-1]), plan.base
    if n_stored != n_merged:
        raise UnusableSnapshot(f"it gives {n_merged} ratings, but the database has {n_stored}")
    if not base.values.size:
        return
    indices = np.unique(np.linspace(0, base.values.size - 1, _N_PROBES).astype(np.int64))
    users = base.user_keys[np.searchsorted(base.user_starts, indices, side="right") - 1]
    pairs = users << 32 | base.item_keys[base.item_rows[indices]]
    changed = pending.user_keys.astype(np.int64) << 32 | pending.item_keys
    is_unchanged = ~np.isin(pairs, changed[is_among(changed, np.sort(pairs))])
    pairs, indices = pairs[is_unchanged], indices[is_unchanged]
    values = bulk_read.values_of_pairs(connection, pairs >> 32, pairs & 0xFFFFFFFF)
    if not np.array_equal(values, base.values[indices]):
        raise UnusableSnapshot("ratings in it are not in the database: it belongs to another database")


def store_snapshot(folder: Path, base: Base, changes: Changes, stored: Files | None = None) -> None:
    """Writes the snapshot; if that fails, the next run reads all ratings, and nothing else is lost."""
    try:
        file.write(folder, base, changes, stored=stored)
    except OSError as error:
        log.warning("the snapshot of the ratings cannot be stored: %s", error)


def _both(older: Changes, newer: Changes) -> Changes:
    """The older changes, then the newer ones."""
    if not len(older):
        return newer
    return Changes(
        np.concatenate([older.user_keys, newer.user_keys]),
        np.concatenate([older.item_keys, newer.item_keys]),
        np.concatenate([older.values, newer.values]),
        np.concatenate([older.revisions, newer.revisions]),
        newer.revision,
    )


def where(changes: Changes, mask: Mask) -> Changes:
    """The changes at which the mask is true."""
    return changes if mask.all() else changes.at(np.flatnonzero(mask))


def no_changes(newest: int) -> Changes:
    """Nothing, as of this revision."""
    keys = np.zeros(0, np.int32)
    return Changes(keys, keys, np.zeros(0, np.float32), np.zeros(0, np.int64), newest)
