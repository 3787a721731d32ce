"""What a run learns from: every rating at one moment, with rows that depend on the outside ids alone."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from app.database import Database
from app.engine.arrays import Mask
from app.engine.dataset import Ratings, Vocabulary
from app.items.store import Ids
from app.ratings import store
from app.registry.artifacts import Keys, look_up, rows_by_key


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """The ratings as of one revision. A user or an item has a row if and only if it has a rating.

    Rows follow the outside ids in sorted order. So the same ratings give the same rows, and with the same seed the
    same model, in whatever order they were stored and whatever keys the database gave them.
    """

    ratings: Ratings
    user_keys: Keys
    item_keys: Keys
    user_ids: Vocabulary
    item_ids: Vocabulary
    revision: int

    def digest(self) -> str:
        """SHA-256 over ids and ratings: equal data, equal digest."""
        sha = hashlib.sha256()
        ratings = self.ratings
        arrays = (*self.user_ids.to_arrays(), *self.item_ids.to_arrays())
        for array in (*arrays, ratings.user_rows, ratings.item_rows, ratings.values):
            sha.update(f"{array.dtype.str} {array.size}\n".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def holdout_mask(self, fraction: float) -> Mask:
        """Which ratings are held out: those whose user and item ids hash into the first `fraction` of all numbers.

        A rating is held out by what it is and not by a draw, so every run with this or a larger fraction holds it
        out, also when there are more ratings by then. That lets two versions be compared on ratings that neither
        has learned from.
        """
        users = _hashes(self.user_ids)[self.ratings.user_rows]
        items = _hashes(self.item_ids)[self.ratings.item_rows]
        return _mixed((users << np.uint64(32)) | items) < np.uint64(fraction * 2.0**64)


def take_snapshot(database: Database) -> TrainingSnapshot:
    """Read everything as of one moment."""
    with database.read() as connection:
        found = store.load_all(connection)  # holds this state of the data for the two that follow
        user_keys, user_ids = _with_rows(store.user_ids(connection), found.user_keys)
        item_keys, item_ids = _with_rows(store.item_ids(connection), found.item_keys)
    return TrainingSnapshot(
        ratings=Ratings.of(
            look_up(rows_by_key(user_keys), found.user_keys),
            look_up(rows_by_key(item_keys), found.item_keys),
            found.values,
            n_users=user_keys.size,
            n_items=item_keys.size,
        ),
        user_keys=user_keys,
        item_keys=item_keys,
        user_ids=user_ids,
        item_ids=item_ids,
        revision=found.revision,
    )


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


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit depends on every bit: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 17)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
