"""The input of a fit: ratings as three arrays, and the vocabularies that map outside ids to rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from app.engine.arrays import (
    Bytes,
    InvalidArray,
    Offsets,
    RatingColumns,
    Rows,
    Vector32,
    refuse_rows_outside,
    rows,
    starts_of,
    vector32,
)


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings in canonical order, by (user_row, item_row), each pair at most once.

    The order is fixed so that the same ratings give the same model, however they were collected.
    """

    user_rows: Rows
    item_rows: Rows
    values: Vector32
    n_users: int
    n_items: int

    @classmethod
    def of(
        cls, user_rows: npt.ArrayLike, item_rows: npt.ArrayLike, values: npt.ArrayLike, *, n_users: int, n_items: int
    ) -> Self:
        """Sorted and checked; InvalidArray for unequal lengths, rows out of range, non-finite values, duplicates."""
        users, items = rows(user_rows, "user_rows"), rows(item_rows, "item_rows")
        ratings = vector32(values, "values")
        if not users.size == items.size == ratings.size:
            raise InvalidArray("ratings", f"need equal lengths, not {users.size}, {items.size} and {ratings.size}")
        refuse_rows_outside(users, n_users, "user_rows")
        refuse_rows_outside(items, n_items, "item_rows")
        if not ((users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (items[1:] > items[:-1]))).all():
            users, items, ratings = _sorted((users, items, ratings), n_users, n_items)
            repeated = np.flatnonzero((users[1:] == users[:-1]) & (items[1:] == items[:-1]))
            if repeated.size:
                pair = f"user row {users[repeated[0]]} with item row {items[repeated[0]]}"
                raise InvalidArray("ratings", f"hold {pair} more than once")
        return cls(users, items, ratings, n_users, n_items)

    def __len__(self) -> int:
        return int(self.values.size)

    @property
    def columns(self) -> RatingColumns:
        """As kernels take them."""
        return self.user_rows, self.item_rows, self.values

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Self:
        """The ratings at these positions (or where a mask is true), in canonical order, over the same rows."""
        chosen = np.flatnonzero(index) if index.dtype == np.bool_ else np.sort(index)
        return type(self)(
            self.user_rows[chosen], self.item_rows[chosen], self.values[chosen], self.n_users, self.n_items
        )

    def of_user(self, user_row: int) -> slice:
        """Where a user's ratings lie in the arrays; O(log n)."""
        start, end = np.searchsorted(self.user_rows, np.array([user_row, user_row + 1], np.int32))
        return slice(int(start), int(end))


def _sorted(ratings: RatingColumns, n_users: int, n_items: int) -> RatingColumns:
    """By item, then by user, each stable: linear time; a comparison sort of 20 million would take seconds."""
    from app.engine.data.sorting import sort_by_first  # compiles a kernel that serving does not need

    users, items, values = ratings
    by_item = (np.empty_like(items), np.empty_like(users), np.empty_like(values))
    sort_by_first((items, users, values), n_items, by_item)
    by_user = (np.empty_like(users), np.empty_like(items), np.empty_like(values))
    sort_by_first((by_item[1], by_item[0], by_item[2]), n_users, by_user)
    return by_user


class Vocabulary:
    """Outside ids and their rows. Rows follow the ids in code-point order, so equal sets give equal rows.

    The ids live in two arrays, all UTF-8 bytes end to end and the n + 1 offsets between them; both may be
    read-only memory maps, shared by every process, and looking up is a binary search in them (UTF-8 sorts by
    code point). So opening a vocabulary of ten million ids costs nothing.
    """

    __slots__ = ("_offsets", "_text")

    def __init__(self, text: Bytes, offsets: Offsets) -> None:
        self._text = text
        self._offsets = offsets

    @classmethod
    def of(cls, ids: Iterable[str]) -> Self:
        """The distinct ids, whatever their order."""
        return cls(*_packed(sorted({one.encode() for one in ids})))

    @classmethod
    def from_arrays(cls, text: Bytes, offsets: Offsets) -> Self:
        """The inverse of `to_arrays`; raises InvalidArray if the two do not fit together."""
        if text.dtype != np.uint8 or text.ndim != 1:
            raise InvalidArray("vocabulary text", f"must be 1-d uint8, not {text.ndim}-d {text.dtype}")
        if offsets.dtype != np.int64 or offsets.ndim != 1 or offsets.size == 0:
            raise InvalidArray("vocabulary offsets", f"must be 1-d int64 of n + 1, not {offsets.dtype}")
        if offsets[0] != 0 or offsets[-1] != text.size:
            raise InvalidArray("vocabulary offsets", f"must run from 0 to {text.size}")
        return cls(text, offsets)

    def to_arrays(self) -> tuple[Bytes, Offsets]:
        """UTF-8 bytes of all ids end to end, and int64 offsets: id of row r is text[offsets[r]:offsets[r + 1]]."""
        return self._text, self._offsets

    def __len__(self) -> int:
        return int(self._offsets.size) - 1

    def row_of(self, outside_id: str) -> int | None:
        """The row of an id, or None when it is not here."""
        row = int(self.rows_of([outside_id])[0])
        return None if row < 0 else row

    def rows_of(self, ids: Sequence[str]) -> Rows:
        """The row of each id, -1 for those not here."""
        return np.maximum(self.search(ids), -1)

    def search(self, ids: Sequence[str]) -> Rows:
        """The row of each id; for one that is not here -1 - i, where i is the row before which it would be inserted."""
        from app.engine.data.id_search import find_rows  # compiled at import: not for `palate --help`

        found_rows = np.empty(len(ids), np.int32)
        find_rows(self._text, self._offsets, *_packed([_encoded(one) for one in ids]), found_rows)
        return found_rows

    def id_of(self, row: int) -> str:
        """The outside id of a row; raises InvalidArray when there is no such row."""
        if not 0 <= row < len(self):
            raise InvalidArray("row", f"{row} is not in a vocabulary of {len(self)}")
        return self._text[self._offsets[row] : self._offsets[row + 1]].tobytes().decode()

    def ids_of(self, item_or_user_rows: Rows) -> list[str]:
        """The outside ids of many rows, in their order."""
        return [self.id_of(row) for row in item_or_user_rows.tolist()]


def _encoded(outside_id: str) -> bytes:
    """UTF-8; text without any (a lone surrogate) cannot be a stored id and becomes a byte that matches none."""
    try:
        return outside_id.encode()
    except UnicodeEncodeError:
        return b"\xff"  # not valid UTF-8


def _packed(encoded: Sequence[bytes]) -> tuple[Bytes, Offsets]:
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return np.frombuffer(b"".join(encoded), np.uint8), starts_of(lengths)
