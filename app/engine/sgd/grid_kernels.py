"""The kernels that arrange ratings in bundles. A run is the ratings of one user in one block."""

import numpy as np
import numpy.typing as npt
from numba import float32, int64, njit, uint32, uint64, void

from app.engine.arrays import Mask, Offsets, Rows, Vector32
from app.engine.numba_types import (
    MASK,
    OFFSET_TABLE,
    OFFSETS,
    PART,
    READ_OFFSETS,
    READ_ROW_TABLE,
    READ_ROWS,
    READ_VECTOR,
    ROW_TABLE,
    ROWS,
    VECTOR,
    group,
)
from app.engine.simd.lanes import fetch_increment, prefetch_line

_MAX_PREFETCHED = 512
"""Ratings of the next user that are prefetched: the processor foresees the rest by itself."""


@njit(void(*PART, group(READ_OFFSETS, READ_ROWS), READ_ROWS, READ_ROWS, ROW_TABLE), nogil=True, cache=True)
def count_runs(
    first: int,
    last: int,
    _part: int,
    ratings: tuple[Offsets, Rows],
    user_positions: Rows,
    item_groups: Rows,
    runs: Rows,
) -> None:
    """runs[position, h], zero before: ratings of items of group h by each of the users from row first to row last.

    ratings: start of each user's ratings, and their item rows
    """
    user_starts, item_rows = ratings
    for user in range(first, last):
        position = user_positions[user]
        for at in range(user_starts[user], user_starts[user + 1]):
            runs[position, item_groups[item_rows[at]]] += 1


@njit(nogil=True, cache=True)
def sort_runs(lengths: Rows) -> tuple[Rows, Rows]:
    """Chains of runs of equal length: the first of each length, -1 for none; and the one after each run of a chain."""
    longest = 0
    for run in range(lengths.size):
        longest = max(longest, lengths[run])
    heads = np.full(longest + 1, -1, np.int32)
    following = np.empty(lengths.size, np.int32)
    for run in range(lengths.size - 1, -1, -1):
        following[run] = heads[lengths[run]]
        heads[lengths[run]] = run
    return heads, following


@njit(
    void(READ_OFFSETS, OFFSETS, ROW_TABLE, group(ROW_TABLE, ROWS, MASK), group(OFFSETS, ROW_TABLE), OFFSET_TABLE),
    nogil=True,
    cache=True,
)
def bundle_blocks(
    group_starts: Offsets,
    next_block: Offsets,
    runs: Rows,
    bundles: tuple[Rows, Rows, Mask],
    pieces: tuple[Offsets, Rows],
    table: npt.NDArray[np.int64],
) -> None:
    """Bundles of each block that this caller claims: which users, how many ratings of each, and where they go.

    The users with most ratings left make the next bundle, which is as long as the fewest of them allow: the rest of
    their ratings go to a later one. So users of nearly equal counts meet, and bundles are long.

    A piece is the ratings of one user in one bundle: number bundle * n_streams + stream.
    next_block [1]: next block to claim   runs [n_users, n_groups]: lengths, replaced by each run's first piece
    bundles: users [n_bundles, n_streams], lengths and continues [n_bundles] of `Grid`, overwritten
    pieces: first rating of each bundle; the next piece of the same run after each piece [n_bundles, n_streams]
    table [n_blocks, 4]: see `Grid`; its first two columns are read, the last two filled in
    """
    bundle_users, bundle_lengths, bundle_continues = bundles
    bundle_starts, next_pieces = pieces
    n_streams, n_groups = bundle_users.shape[1], runs.shape[1]
    chosen = np.zeros(n_streams, np.int64)
    block = fetch_increment(next_block.ctypes.data)
    while block < table.shape[0]:
        user_group, item_group = block // n_groups, block % n_groups
        first_position = group_starts[user_group]
        left = runs[first_position : group_starts[user_group + 1], item_group].copy()
        heads, following = sort_runs(left)
        longest = heads.size - 1
        last_pieces = np.full(left.size, -1, np.int64)
        to, bundle, n_open = table[block, 0], table[block, 1], 0
        for run in range(left.size):
            n_open += left[run] > 0
        while n_open > 0:
            width = n_streams if n_open >= n_streams else 1
            continues = False
            for stream in range(n_streams):
                if stream >= width:
                    bundle_users[bundle, stream] = -1
                    continue
                while heads[longest] < 0:
                    longest -= 1
                run = heads[longest]
                heads[longest] = following[run]
                chosen[stream] = run
                bundle_users[bundle, stream] = first_position + run
                piece, before = bundle * n_streams + stream, last_pieces[run]
                if before < 0:
                    runs[first_position + run, item_group] = piece
                else:
                    next_pieces[before // n_streams, before % n_streams] = piece
                    continues |= before // n_streams == bundle - 1
                last_pieces[run] = piece
            length = left[chosen[width - 1]]
            bundle_lengths[bundle], bundle_continues[bundle], bundle_starts[bundle] = length, continues, to
            for stream in range(width):
                run = chosen[stream]
                left[run] -= length
                if left[run] > 0:
                    following[run] = heads[left[run]]
                    heads[left[run]] = run
                    longest = max(longest, left[run])
                else:
                    n_open -= 1
            to += length * width
            table[block, 2 if width == n_streams else 3] += 1
            bundle += 1
        block = fetch_increment(next_block.ctypes.data)


@njit(
    void(
        *(*PART, group(READ_OFFSETS, READ_ROWS, READ_VECTOR), float32, group(READ_ROWS, READ_ROWS, READ_ROWS)),
        *(READ_ROW_TABLE, READ_ROW_TABLE, READ_ROWS, group(READ_OFFSETS, READ_ROW_TABLE), ROWS, VECTOR),
    ),
    nogil=True,
    cache=True,
)
def place_ratings(
    first: int,
    last: int,
    _part: int,
    ratings: tuple[Offsets, Rows, Vector32],
    factor: float,
    partitions: tuple[Rows, Rows, Rows],
    runs: Rows,
    bundle_users: Rows,
    bundle_lengths: Rows,
    pieces: tuple[Offsets, Rows],
    placed_items: Rows,
    placed_values: Vector32,
) -> None:
    """Puts the ratings of the users at positions first to last where `bundle_blocks` assigns them, times factor.

    ratings: start of each user's ratings, their item rows and values   partitions: the user row at each position; the
    group and the position of each item row   runs, bundles, pieces: as `bundle_blocks` leaves them
    placed_items, placed_values [n], overwritten. Users of one group are handled one after the other: they write near
    each other, and each cache line is complete before it leaves the cache.
    """
    user_starts, item_rows, values = ratings
    user_row_at, item_groups, item_positions = partitions
    bundle_starts, next_pieces = pieces
    n_streams, n_groups = bundle_users.shape[1], runs.shape[1]
    coming, left = np.empty(n_groups, np.int64), np.empty(n_groups, np.int64)
    to, stride = np.empty(n_groups, np.int64), np.empty(n_groups, np.int64)
    for position in range(first, last):
        user, soon = user_row_at[position], user_row_at[min(position + 1, last - 1)]
        for at in range(user_starts[soon], min(user_starts[soon + 1], user_starts[soon] + _MAX_PREFETCHED), 16):
            prefetch_line(item_rows.ctypes.data + at * 4)
            prefetch_line(values.ctypes.data + at * 4)
        for item_group in range(n_groups):
            coming[item_group], left[item_group] = runs[position, item_group], 0
        for at in range(user_starts[user], user_starts[user + 1]):
            item = uint32(item_rows[at])
            item_group = uint32(item_groups[item])
            if left[item_group] == 0:
                piece = uint64(coming[item_group])
                bundle, stream = piece // uint64(n_streams), piece % uint64(n_streams)
                to[item_group], left[item_group] = bundle_starts[bundle] + int64(stream), bundle_lengths[bundle]
                stride[item_group] = n_streams if bundle_users[bundle, n_streams - 1] >= 0 else 1
                coming[item_group] = next_pieces[bundle, stream]
            here = uint64(to[item_group])
            to[item_group] += stride[item_group]
            left[item_group] -= 1
            placed_items[here] = item_positions[item]
            placed_values[here] = values[at] * factor
