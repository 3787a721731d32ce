"""The kernels that bring ratings into bundles. A run is what one user has in one block."""

import numpy as np
import numpy.typing as npt
from numba import boolean, float32, int32, int64, njit, uint32, uint64, void

from app.engine.arrays import Offsets, Rows, Vector32
from app.engine.numba_types import READ_OFFSETS, READ_ROW_TABLE, READ_ROWS, READ_VECTOR
from app.engine.simd.lanes import claim, prefetch_line

_MOST_FETCHED = 512
"""Ratings of the next user that are asked for ahead: what follows, the processor sees coming."""


@njit(void(int64, int64, int64, READ_OFFSETS, READ_ROWS, READ_ROWS, READ_ROWS, int32[:, ::1]), nogil=True, cache=True)
def count_runs(
    first: int,
    last: int,
    _part: int,
    user_starts: Offsets,
    item_rows: Rows,
    user_place_of: Rows,
    item_groups: Rows,
    runs: Rows,
) -> None:
    """runs[place, h], zero before: ratings of items of group h by each of the users from row first to row last."""
    for user in range(first, last):
        place = user_place_of[user]
        for at in range(user_starts[user], user_starts[user + 1]):
            runs[place, item_groups[item_rows[at]]] += 1


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
    void(
        READ_OFFSETS,
        int64[::1],
        int32[:, ::1],
        int32[:, ::1],
        int32[::1],
        boolean[::1],
        int64[::1],
        int32[:, ::1],
        int64[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def bundle_blocks(
    group_starts: Offsets,
    turn: Offsets,
    runs: Rows,
    bundle_users: Rows,
    bundle_lengths: Rows,
    bundle_continues: npt.NDArray[np.bool_],
    bundle_starts: Offsets,
    next_pieces: Rows,
    table: Offsets,
) -> None:
    """Bundles of each block that this caller claims: which users, how many ratings of each, and where they go.

    The users with most ratings left make the next bundle, which is as long as the least of them allows: what the others
    have beyond that, they bring to a later one. So users of nearly equal counts meet, and bundles are long.

    A piece is what a user brings to a bundle: number bundle * n_streams + stream.
    turn [1]: next block to claim   runs [n_users, n_groups]: lengths, replaced by each run's first piece
    next_pieces [n_bundles, n_streams]: the piece of the same run after each one   bundle_starts: first rating of each
    table [n_blocks, 4]: see `Grid`; first two columns given, last two filled in   the other arrays are overwritten
    """
    n_streams, n_groups = bundle_users.shape[1], runs.shape[1]
    chosen = np.zeros(n_streams, np.int64)
    block = claim(turn.ctypes.data)
    while block < table.shape[0]:
        group, other = block // n_groups, block % n_groups
        first_place = group_starts[group]
        left = runs[first_place : group_starts[group + 1], other].copy()
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
                bundle_users[bundle, stream] = first_place + run
                piece, before = bundle * n_streams + stream, last_pieces[run]
                if before < 0:
                    runs[first_place + run, other] = piece
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
        block = claim(turn.ctypes.data)


@njit(
    void(
        int64,
        int64,
        int64,
        READ_OFFSETS,
        READ_ROWS,
        READ_VECTOR,
        float32,
        READ_ROWS,
        READ_ROWS,
        READ_ROWS,
        READ_ROW_TABLE,
        READ_ROW_TABLE,
        READ_ROWS,
        READ_OFFSETS,
        READ_ROW_TABLE,
        int32[::1],
        float32[::1],
    ),
    nogil=True,
    cache=True,
)
def place_ratings(
    first: int,
    last: int,
    _part: int,
    user_starts: Offsets,
    item_rows: Rows,
    values: Vector32,
    share: float,
    user_row_at: Rows,
    item_groups: Rows,
    item_place_of: Rows,
    runs: Rows,
    bundle_users: Rows,
    bundle_lengths: Rows,
    bundle_starts: Offsets,
    next_pieces: Rows,
    item_places: Rows,
    placed_values: Vector32,
) -> None:
    """Puts the ratings of the users at places first to last where `bundle_blocks` wants them, in units of scale.

    Users of one group follow each other here: what they write lies near together, and is whole before it leaves the
    cache.   item_places, placed_values [n], overwritten
    """
    n_streams, n_groups = bundle_users.shape[1], runs.shape[1]
    coming, left = np.empty(n_groups, np.int64), np.empty(n_groups, np.int64)
    to, stride = np.empty(n_groups, np.int64), np.empty(n_groups, np.int64)
    for place in range(first, last):
        user, soon = user_row_at[place], user_row_at[min(place + 1, last - 1)]
        for at in range(user_starts[soon], min(user_starts[soon + 1], user_starts[soon] + _MOST_FETCHED), 16):
            prefetch_line(item_rows.ctypes.data + at * 4)
            prefetch_line(values.ctypes.data + at * 4)
        for group in range(n_groups):
            coming[group], left[group] = runs[place, group], 0
        for at in range(user_starts[user], user_starts[user + 1]):
            item = uint32(item_rows[at])
            group = uint32(item_groups[item])
            if left[group] == 0:
                piece = uint64(coming[group])
                bundle, stream = piece // uint64(n_streams), piece % uint64(n_streams)
                to[group], left[group] = bundle_starts[bundle] + int64(stream), bundle_lengths[bundle]
                stride[group] = n_streams if bundle_users[bundle, n_streams - 1] >= 0 else 1
                coming[group] = next_pieces[bundle, stream]
            here = uint64(to[group])
            to[group] += stride[group]
            left[group] -= 1
            item_places[here] = item_place_of[item]
            placed_values[here] = values[at] * share
