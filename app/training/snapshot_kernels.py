"""The passes over all ratings that make a snapshot: none allocates more than it gives back."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import bool_, float32, int32, int64, njit, uint32, uint64, void
from numba.core.types import Array

from app.engine.arrays import Mask, Offsets, Rows, Vector32

READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_OFFSETS = Array(int64, 1, "C", readonly=True)
READ_HASHES = Array(uint64, 1, "C", readonly=True)
READ_BITS = Array(uint32, 1, "C", readonly=True)
READ_MASK = Array(bool_, 1, "C", readonly=True)

Bits = npt.NDArray[np.uint32]
"""Values as they lie in memory: moved, never reckoned with."""


@njit(int64(int32[::1], READ_ROWS), nogil=True, cache=True)
def rename(keys: Rows, row_of_key: Rows) -> int:
    """Overwrites each key by its row; returns how many have none (they become -1)."""
    n_unknown = 0
    for at in range(keys.size):
        key = keys[at]
        row = row_of_key[key] if 0 <= key < row_of_key.size else int32(-1)
        n_unknown += 1 if row < 0 else 0
        keys[at] = row
    return n_unknown


@njit(int64(READ_ROWS, READ_ROWS, READ_VECTOR), nogil=True, cache=True)
def first_flaw(user_rows: Rows, item_rows: Rows, values: Vector32) -> int:
    """The first place at which pairs do not rise or a value is not finite; -1 where there is none."""
    for at in range(values.size):
        if not np.isfinite(values[at]):
            return at
        if at and (
            user_rows[at] < user_rows[at - 1]
            or (user_rows[at] == user_rows[at - 1] and item_rows[at] <= item_rows[at - 1])
        ):
            return at
    return -1


@njit(void(READ_ROWS, READ_ROWS, READ_BITS, int64[::1], int32[::1], uint32[::1]), nogil=True, cache=True)
def gather_users(
    user_rows: Rows, item_rows: Rows, bits: Bits, next_free: Offsets, to_items: Rows, to_bits: Bits
) -> None:
    """Items and values brought together user by user, in their old order within one.

    next_free [n_users]: where each user's begin; consumed   last two [n], overwritten
    """
    for at in range(user_rows.size):
        to = next_free[user_rows[at]]
        next_free[user_rows[at]] = to + 1
        to_items[to], to_bits[to] = item_rows[at], bits[at]


@njit(void(READ_OFFSETS, int64, int64, int32[::1], int32[::1], uint32[::1]), nogil=True, cache=True)
def sort_within_users(
    starts: Offsets, first_user: int, end_user: int, user_rows: Rows, item_rows: Rows, bits: Bits
) -> None:
    """For users first_user..end_user - 1: their ratings by item, in place, and user_rows [n] filled in."""
    largest = int64(0)
    for user in range(first_user, end_user):
        largest = max(largest, starts[user + 1] - starts[user])
    packed = np.empty(largest, np.int64)
    for user in range(first_user, end_user):
        start, end = starts[user], starts[user + 1]
        user_rows[start:end] = user
        is_sorted = True
        for at in range(start, end):
            packed[at - start] = (int64(item_rows[at]) << 32) | int64(bits[at])
            is_sorted &= at == start or item_rows[at] >= item_rows[at - 1]
        if is_sorted:
            continue
        packed[: end - start].sort()
        for at in range(start, end):
            item_rows[at], bits[at] = int32(packed[at - start] >> 32), uint32(packed[at - start] & 0xFFFFFFFF)


@njit(uint64(uint64), nogil=True, cache=True)
def _mixed(number: Any) -> Any:
    """Every bit depends on every bit: the finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 17)."""
    number = (number ^ (number >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> uint64(27))) * uint64(0x94D049BB133111EB)
    return number ^ (number >> uint64(31))


@njit(void(READ_ROWS, READ_ROWS, READ_HASHES, READ_HASHES, uint64, bool_[::1]), nogil=True, cache=True)
def hold_out(
    user_rows: Rows, item_rows: Rows, user_hashes: np.ndarray, item_hashes: np.ndarray, limit: np.uint64, mask: Mask
) -> None:
    """mask [n], overwritten: whether the hash of the pair, user's in the upper half, mixes to less than `limit`."""
    for at in range(mask.size):
        pair = (user_hashes[user_rows[at]] << uint64(32)) | item_hashes[item_rows[at]]
        mask[at] = _mixed(pair) < limit


@njit(
    void(READ_MASK, READ_ROWS, READ_ROWS, READ_VECTOR, int32[::1], int32[::1], float32[::1]),
    nogil=True,
    cache=True,
)
def take_where(
    mask: Mask, users: Rows, items: Rows, values: Vector32, to_users: Rows, to_items: Rows, to_values: Vector32
) -> None:
    """The ratings at which the mask is true, in their order.   last three [number of trues], overwritten"""
    to = 0
    for at in range(mask.size):
        if mask[at]:
            to_users[to], to_items[to], to_values[to] = users[at], items[at], values[at]
            to += 1


@njit(void(READ_OFFSETS, READ_ROWS, READ_ROWS, READ_ROWS, int64[::1]), nogil=True, cache=True)
def find_places(user_starts: Offsets, item_rows: Rows, users: Rows, items: Rows, places: Offsets) -> None:
    """Where each pair lies among the ratings, -1 for those that do not; rows below zero lie nowhere.

    user_starts [n_users + 1], item_rows [n]   users, items, places [n_wanted], places overwritten
    """
    for one in range(users.size):
        places[one] = -1
        user, item = users[one], items[one]
        if user < 0 or item < 0:
            continue
        low, high = user_starts[user], user_starts[user + 1]
        while low < high:
            middle = (low + high) // 2
            if item_rows[middle] < item:
                low = middle + 1
            else:
                high = middle
        if low < user_starts[user + 1] and item_rows[low] == item:
            places[one] = low


@njit(int64(READ_ROWS, int64, int64, int32), nogil=True, cache=True)
def _first_not_below(sorted_rows: Rows, start: Any, end: Any, row: int) -> Any:
    """The first place from start to end - 1 whose row is at least `row`; end where there is none."""
    while start < end:
        middle = (start + end) // 2
        if sorted_rows[middle] < row:
            start = middle + 1
        else:
            end = middle
    return start


@njit(
    int64(
        *(READ_OFFSETS, READ_ROWS, READ_VECTOR),
        *(READ_ROWS, READ_ROWS),
        *(READ_OFFSETS, READ_ROWS, READ_ROWS, READ_VECTOR),
        *(READ_OFFSETS, int64, int64),
        *(int32[::1], int32[::1], float32[::1]),
    ),
    nogil=True,
    cache=True,
)
def merge(  # noqa: C901
    old_starts: Offsets,
    old_items: Rows,
    old_values: Vector32,
    old_user_of: Rows,
    item_row_of_old: Rows,
    change_starts: Offsets,
    change_marks: Rows,
    change_items: Rows,
    change_values: Vector32,
    starts: Offsets,
    first_user: int,
    end_user: int,
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
) -> int:
    """Old ratings with changes put over them, for users first_user..end_user - 1; returns how many users do not add up.

    old_user_of [n_users]: the user's row among the old ones, -1 for new users
    item_row_of_old [n_old_items]: rises, but for -1 where an item is gone
    change_*: in the order of users, then marks, then items; infinite values take a rating away
    change_marks: 2 i + 1 for old item i, 2 i for a new item that comes just before old item i
    starts [n_users + 1]: where each user's ratings go in the last three [n], which are overwritten
    """
    n_wrong = 0
    for user in range(first_user, end_user):
        to, end = starts[user], starts[user + 1]
        user_rows[to:end] = user
        at, old_end = int64(0), int64(0)
        if old_user_of[user] >= 0:
            at, old_end = old_starts[old_user_of[user]], old_starts[old_user_of[user] + 1]
        change, change_end = change_starts[user], change_starts[user + 1]
        while at < old_end or change < change_end:
            stop = old_end
            if change < change_end:
                stop = _first_not_below(old_items, at, old_end, change_marks[change] // 2)
            if to + stop - at > end:
                to = int64(-1)
                break
            for one in range(stop - at):
                item_rows[to + one] = item_row_of_old[old_items[at + one]]
                values[to + one] = old_values[at + one]
            to += stop - at
            at = stop
            if change < change_end:
                if at < old_end and 2 * old_items[at] + 1 == change_marks[change]:
                    at += 1
                if not np.isinf(change_values[change]):
                    if to == end:
                        to = int64(-1)
                        break
                    item_rows[to], values[to] = change_items[change], change_values[change]
                    to += 1
                change += 1
        n_wrong += to != end
    return n_wrong
