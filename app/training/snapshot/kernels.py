"""The passes over all ratings that make a snapshot: none allocates more than it gives back."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import bool_, float32, int32, int64, njit, uint8, uint32, uint64, void

from app.engine.arrays import Bytes, Mask, Offsets, Rows, Vector32
from app.engine.numba_types import READ_BITS, READ_BYTES, READ_HASHES, READ_MASK, READ_OFFSETS, READ_ROWS, READ_VECTOR
from app.engine.splitmix64 import mixed

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


@njit(int64(READ_ROWS, int32[::1], int64, int32[::1], int32[::1]), nogil=True, cache=True)
def number_rows(keys: Rows, row_of_key: Rows, n_known: int, rows: Rows, new_keys: Rows) -> int:
    """The row of each key; those without one get the numbers from n_known on. Returns how many those are.

    row_of_key: beyond every key, -1 where there is none; new ones are entered
    rows [n], overwritten   new_keys [n]: the first ones are overwritten
    """
    n_new = 0
    for at in range(keys.size):
        row = row_of_key[keys[at]]
        if row < 0:
            row = int32(n_known + n_new)
            row_of_key[keys[at]] = row
            new_keys[n_new] = keys[at]
            n_new += 1
        rows[at] = row
    return n_new


@njit(void(int64[::1]), nogil=True, cache=True)
def _sort_few(numbers: npt.NDArray[np.int64]) -> None:
    """In place; most users have changed one rating or two."""
    if numbers.size > 32:
        numbers.sort()
        return
    for at in range(1, numbers.size):
        number, to = numbers[at], at
        while to > 0 and numbers[to - 1] > number:
            numbers[to] = numbers[to - 1]
            to -= 1
        numbers[to] = number


@njit(int64(READ_ROWS, READ_ROWS, int64[::1], int64[::1]), nogil=True, cache=True)
def group_changes(user_rows: Rows, item_rows: Rows, starts: Offsets, order: Offsets) -> int:
    """Changes user by user, by item within one, and of those of one pair the last; returns how many remain.

    user_rows, item_rows [n]   starts [n_users + 1], order [n]: overwritten, the latter as far as changes remain
    """
    n_users, largest = starts.size - 1, int64(0)
    starts[:] = 0
    for at in range(user_rows.size):
        starts[user_rows[at] + 1] += 1
    for user in range(n_users):
        largest = max(largest, starts[user + 1])
        starts[user + 1] += starts[user]
    next_free = starts[:-1].copy()
    for at in range(user_rows.size):
        order[next_free[user_rows[at]]] = at
        next_free[user_rows[at]] += 1
    packed = np.empty(largest, np.int64)
    n_kept = 0
    for user in range(n_users):
        start, n = starts[user], starts[user + 1] - starts[user]
        starts[user] = n_kept
        for one in range(n):
            packed[one] = (int64(item_rows[order[start + one]]) << 32) | order[start + one]
        _sort_few(packed[:n])
        for one in range(n):
            if one + 1 == n or packed[one] >> 32 != packed[one + 1] >> 32:
                order[n_kept] = packed[one] & 0xFFFFFFFF
                n_kept += 1
    starts[n_users] = n_kept
    return n_kept


@njit(void(READ_OFFSETS, READ_ROWS, READ_ROWS, int64[::1]), nogil=True, cache=True)
def order_within_users(starts: Offsets, item_rows: Rows, rank_of_item: Rows, order: Offsets) -> None:
    """The changes of each user by the rank of their items.   item_rows [n]   order [n], overwritten"""
    largest = int64(0)
    for user in range(starts.size - 1):
        largest = max(largest, starts[user + 1] - starts[user])
    packed = np.empty(largest, np.int64)
    for user in range(starts.size - 1):
        start, n = starts[user], starts[user + 1] - starts[user]
        for one in range(n):
            packed[one] = (int64(rank_of_item[item_rows[start + one]]) << 32) | (start + one)
        _sort_few(packed[:n])
        for one in range(n):
            order[start + one] = packed[one] & 0xFFFFFFFF


@njit(
    void(READ_OFFSETS, READ_ROWS, READ_OFFSETS, READ_ROWS, READ_VECTOR, int64, int64, int32[::1]),
    nogil=True,
    cache=True,
)
def weigh_changes(
    old_starts: Offsets,
    old_items: Rows,
    change_starts: Offsets,
    change_items: Rows,
    change_values: Vector32,
    first_user: int,
    end_user: int,
    deltas: Rows,
) -> None:
    """By how many ratings each change makes its user and its item richer: -1, 0 or 1.

    Users and items of the changes, which rise, are numbered as the old ones are and on from there.
    deltas [n_changes]: those of users first_user..end_user - 1 are overwritten
    """
    for user in range(first_user, end_user):
        at, old_end = int64(0), int64(0)
        if user < old_starts.size - 1:
            at, old_end = old_starts[user], old_starts[user + 1]
        for change in range(change_starts[user], change_starts[user + 1]):
            at = _first_not_below(old_items, at, old_end, change_items[change])
            was_there = at < old_end and old_items[at] == change_items[change]
            deltas[change] = int32(not np.isinf(change_values[change])) - int32(was_there)


@njit(void(READ_ROWS, READ_ROWS, int64[::1]), nogil=True, cache=True)
def add_at(rows: Rows, deltas: Rows, counts: Offsets) -> None:
    """rows, deltas [n], each row < counts.size   counts: added to"""
    for at in range(rows.size):
        counts[rows[at]] += deltas[at]


@njit(bool_(READ_BYTES, int64, int64, READ_BYTES, int64, int64), nogil=True, cache=True)
def _is_before(left: Bytes, start: int, end: int, right: Bytes, from_: int, to: int) -> bool:
    """Whether left[start:end] sorts before right[from_:to], byte by byte."""
    for at in range(min(end - start, to - from_)):
        if left[start + at] != right[from_ + at]:
            return bool(left[start + at] < right[from_ + at])
    return end - start < to - from_


@njit(void(READ_BYTES, READ_OFFSETS, READ_BYTES, READ_OFFSETS, int64[::1]), nogil=True, cache=True)
def place_ids(text: Bytes, offsets: Offsets, added: Bytes, added_offsets: Offsets, before: Offsets) -> None:
    """The row before which each added id belongs.

    text and added: sorted ids end to end, each with its n + 1 offsets   before [n_added], overwritten
    """
    low = 0
    for one in range(before.size):
        high = int(offsets.size) - 1
        while low < high:
            middle = (low + high) // 2
            if _is_before(
                *(text, offsets[middle], offsets[middle + 1]), *(added, added_offsets[one], added_offsets[one + 1])
            ):
                low = middle + 1
            else:
                high = middle
        before[one] = low


@njit(void(READ_BYTES, READ_OFFSETS, READ_ROWS, READ_OFFSETS, uint8[::1]), nogil=True, cache=True)
def copy_ids(text: Bytes, offsets: Offsets, rows: Rows, new_offsets: Offsets, new_text: Bytes) -> None:
    """Each id copied to where its row's begins; those without a row are left out.

    text: ids end to end, offsets [n + 1]   rows [n], -1 for none   new_text: overwritten where the rows are
    """
    for one in range(rows.size):
        if rows[one] >= 0:
            to, start = new_offsets[rows[one]], offsets[one]
            for at in range(offsets[one + 1] - start):
                new_text[to + at] = text[start + at]


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
    """Old ratings with changes put over them, for users first_user..end_user - 1; returns how many users do not add up.

    Users and items of the changes are numbered as the old ones are and on from there; each user's are in the order of
    marks and then of new rows; infinite values take a rating away.
    number_of_user [n_users]: of each user's new row
    item_row_of [n_numbers]: new rows, which rise with the old ones, but for -1 where an item is gone
    mark_of_item [n_numbers]: 2 i + 1 for old item i, 2 i for a new item that comes just before old item i
    starts [n_users + 1]: where each user's ratings go in the last three [n], which are overwritten
    """
    n_wrong = 0
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
        n_wrong += to != end
    return n_wrong
