"""Kernels that pass over all ratings of a snapshot; none allocates more than a user's ratings."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import bool_, float32, int32, int64, njit, uint32, uint64, void

from app.engine.arrays import Mask, Offsets, Rows, Vector32
from app.engine.numba_types import READ_BITS, READ_HASHES, READ_MASK, READ_OFFSETS, READ_ROWS, READ_VECTOR
from app.engine.splitmix64 import mixed

Bits = npt.NDArray[np.uint32]
"""float32 values as their bits, so that integer kernels can move them."""


@njit(int64(int32[::1], READ_ROWS), nogil=True, cache=True)
def rename(keys: Rows, row_of_key: Rows) -> int:
    """Overwrites each key with its row, or with -1 if it has none; returns how many have none."""
    n_unknown = 0
    for at in range(keys.size):
        key = keys[at]
        row = row_of_key[key] if 0 <= key < row_of_key.size else int32(-1)
        n_unknown += 1 if row < 0 else 0
        keys[at] = row
    return n_unknown


@njit(int64(READ_ROWS, READ_ROWS, READ_VECTOR), nogil=True, cache=True)
def first_flaw(user_rows: Rows, item_rows: Rows, values: Vector32) -> int:
    """The first index at which the pairs are not ascending or the value is not finite; -1 if there is none."""
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
    """Items and values grouped by user; within a user the order stays.

    next_free [n_users]: start of each user's ratings; overwritten   last two [n], overwritten
    """
    for at in range(user_rows.size):
        to = next_free[user_rows[at]]
        next_free[user_rows[at]] = to + 1
        to_items[to], to_bits[to] = item_rows[at], bits[at]


@njit(void(READ_OFFSETS, int64, int64, int32[::1], int32[::1], uint32[::1]), nogil=True, cache=True)
def sort_within_users(
    starts: Offsets, first_user: int, end_user: int, user_rows: Rows, item_rows: Rows, bits: Bits
) -> None:
    """Sorts the ratings of users first_user..end_user - 1 by item, in place, and fills in user_rows [n]."""
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


@njit(void(READ_ROWS, READ_ROWS, READ_HASHES, READ_HASHES, uint64, bool_[::1]), nogil=True, cache=True)
def hold_out(
    user_rows: Rows, item_rows: Rows, user_hashes: np.ndarray, item_hashes: np.ndarray, limit: np.uint64, mask: Mask
) -> None:
    """mask [n], overwritten: whether the hash of the pair, user's in the upper half, mixes to less than `limit`."""
    for at in range(mask.size):
        pair = (user_hashes[user_rows[at]] << uint64(32)) | item_hashes[item_rows[at]]
        mask[at] = mixed(pair) < limit


@njit(
    void(READ_MASK, READ_ROWS, READ_ROWS, READ_VECTOR, int32[::1], int32[::1], float32[::1]),
    nogil=True,
    cache=True,
)
def take_where(
    mask: Mask, users: Rows, items: Rows, values: Vector32, to_users: Rows, to_items: Rows, to_values: Vector32
) -> None:
    """The ratings where the mask is true, in order.   last three [number of trues], overwritten"""
    to = 0
    for at in range(mask.size):
        if mask[at]:
            to_users[to], to_items[to], to_values[to] = users[at], items[at], values[at]
            to += 1


@njit(int64(READ_ROWS, int64, int64, int32), nogil=True, cache=True)
def _first_not_below(sorted_rows: Rows, start: Any, end: Any, row: int) -> Any:
    """The first index from start to end - 1 whose row is at least `row`; end if there is none."""
    while start < end:
        middle = (start + end) // 2
        if sorted_rows[middle] < row:
            start = middle + 1
        else:
            end = middle
    return start


@njit(void(READ_OFFSETS, READ_ROWS, READ_ROWS, READ_ROWS, int64[::1]), nogil=True, cache=True)
def find_pairs(user_starts: Offsets, item_rows: Rows, users: Rows, items: Rows, indices: Offsets) -> None:
    """The index of each pair among the ratings, -1 if it is not there; users may be any numbers.

    user_starts [n_users + 1], item_rows [n]   users, items, indices [n_pairs], indices overwritten
    """
    for pair in range(users.size):
        user, item = users[pair], items[pair]
        indices[pair] = -1
        if 0 <= user < user_starts.size - 1:
            end = user_starts[user + 1]
            index = _first_not_below(item_rows, user_starts[user], end, item)
            if index < end and item_rows[index] == item:
                indices[pair] = index


@njit(
    int64(
        *(READ_OFFSETS, READ_ROWS, READ_VECTOR),
        *(READ_OFFSETS, READ_ROWS, READ_VECTOR),
        *(READ_ROWS, READ_ROWS, READ_ROWS),
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
    change_starts: Offsets,
    change_items: Rows,
    change_values: Vector32,
    number_of_user: Rows,
    item_row_of: Rows,
    mark_of_item: Rows,
    starts: Offsets,
    first_user: int,
    end_user: int,
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
) -> int:
    """Applies changes to old ratings for users first_user..end_user - 1; returns how many users are inconsistent.

    The number of a user or item is its old row; numbers of new ones follow. Within a user, changes are sorted by mark,
    then by new row; an infinite value deletes the rating.
    number_of_user [n_users]: the number of each new row
    item_row_of [n_numbers]: new rows, ascending with the old ones, -1 for removed items
    mark_of_item [n_numbers]: 2 i + 1 for old item i, 2 i for a new item that is inserted before old item i
    starts [n_users + 1]: start of each user's ratings in the last three [n], which are overwritten
    """
    n_inconsistent = 0
    for user in range(first_user, end_user):
        to, end = starts[user], starts[user + 1]
        user_rows[to:end] = user
        number = number_of_user[user]
        at, old_end = int64(0), int64(0)
        if number < old_starts.size - 1:
            at, old_end = old_starts[number], old_starts[number + 1]
        change, change_end = change_starts[number], change_starts[number + 1]
        while at < old_end or change < change_end:
            stop, mark = old_end, int32(0)
            if change < change_end:
                mark = mark_of_item[change_items[change]]
                stop = _first_not_below(old_items, at, old_end, mark // 2)
            if to + stop - at > end:
                to = int64(-1)
                break
            for one in range(stop - at):
                item_rows[to + one] = item_row_of[uint32(old_items[at + one])]
                values[to + one] = old_values[at + one]
            to += stop - at
            at = stop
            if change < change_end:
                if at < old_end and 2 * old_items[at] + 1 == mark:
                    at += 1
                if not np.isinf(change_values[change]):
                    if to == end:
                        to = int64(-1)
                        break
                    item_rows[to], values[to] = item_row_of[change_items[change]], change_values[change]
                    to += 1
                change += 1
        n_inconsistent += to != end
    return n_inconsistent
