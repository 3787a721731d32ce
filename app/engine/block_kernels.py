"""The kernels that move ratings to their blocks."""

import numpy as np
import numpy.typing as npt
from numba import boolean, float32, int32, int64, njit, void
from numba.core.types import Array

from app.engine.arrays import Offsets, Rows, Vector32
from app.engine.lanes import claim

READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_OFFSETS = Array(int64, 1, "C", readonly=True)


@njit(
    void(READ_ROWS, READ_ROWS, READ_ROWS, READ_ROWS, int64, READ_OFFSETS, int64, int64[:, ::1]),
    nogil=True,
    cache=True,
)
def count_blocks(
    user_rows: Rows,
    item_rows: Rows,
    user_groups: Rows,
    item_groups: Rows,
    n_groups: int,
    bounds: Offsets,
    part: int,
    counts: Offsets,
) -> None:
    """counts[part, b], zero before: how many ratings from bounds[part] to bounds[part + 1] lie in block b."""
    for at in range(bounds[part], bounds[part + 1]):
        counts[part, int64(user_groups[user_rows[at]]) * n_groups + item_groups[item_rows[at]]] += 1


@njit(
    void(
        READ_ROWS,
        READ_ROWS,
        READ_VECTOR,
        READ_ROWS,
        READ_ROWS,
        READ_ROWS,
        READ_ROWS,
        int64,
        READ_OFFSETS,
        int64,
        int64[:, ::1],
        int32[::1],
        int32[::1],
        float32[::1],
    ),
    nogil=True,
    cache=True,
)
def scatter(
    user_rows: Rows,
    item_rows: Rows,
    values: Vector32,
    user_groups: Rows,
    item_groups: Rows,
    user_place_of: Rows,
    item_place_of: Rows,
    n_groups: int,
    bounds: Offsets,
    part: int,
    next_free: Offsets,
    user_places: Rows,
    item_places: Rows,
    moved_values: Vector32,
) -> None:
    """Moves the ratings of one part to their blocks and renames rows to places.

    next_free [n_parts, n_blocks]: where this part's next rating of a block goes; consumed
    user_places, item_places, moved_values [n], overwritten
    """
    for at in range(bounds[part], bounds[part + 1]):
        user, item = user_rows[at], item_rows[at]
        block = int64(user_groups[user]) * n_groups + item_groups[item]
        to = next_free[part, block]
        next_free[part, block] = to + 1
        user_places[to] = user_place_of[user]
        item_places[to] = item_place_of[item]
        moved_values[to] = values[at]


@njit(nogil=True, cache=True)
def find_runs(user_places: Rows, start: int, end: int) -> tuple[Offsets, Rows, int]:
    """Where each user's ratings start and, at the last place, end; how many each has; the most that one has."""
    n_runs = 0
    for at in range(start, end):
        if at == start or user_places[at] != user_places[at - 1]:
            n_runs += 1
    run_starts = np.empty(n_runs + 1, np.int64)
    left = np.empty(n_runs, np.int32)
    run = 0
    for at in range(start, end):
        if at == start or user_places[at] != user_places[at - 1]:
            run_starts[run] = at
            run += 1
    run_starts[n_runs] = end
    longest = 0
    for run in range(n_runs):
        left[run] = run_starts[run + 1] - run_starts[run]
        longest = max(longest, left[run])
    return run_starts, left, longest


@njit(nogil=True, cache=True)
def sort_runs(lengths: Rows, longest: int) -> tuple[Rows, Rows]:
    """Chains of runs of equal length: the first of each length, -1 for none; and the one after each run of a chain."""
    heads = np.full(longest + 1, -1, np.int32)
    following = np.empty(lengths.size, np.int32)
    for run in range(lengths.size - 1, -1, -1):
        following[run] = heads[lengths[run]]
        heads[lengths[run]] = run
    return heads, following


@njit(
    void(
        READ_ROWS,
        READ_ROWS,
        READ_VECTOR,
        READ_OFFSETS,
        int64[::1],
        int32[:, ::1],
        int32[::1],
        boolean[::1],
        int32[::1],
        float32[::1],
        int64[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def bundle_blocks(
    user_places: Rows,
    item_places: Rows,
    values: Vector32,
    block_starts: Offsets,
    turn: Offsets,
    bundle_users: Rows,
    bundle_lengths: Rows,
    bundle_continues: npt.NDArray[np.bool_],
    ordered_items: Rows,
    ordered_values: Vector32,
    table: Offsets,
) -> None:
    """Bundles of each block that this caller claims; each user's ratings lie together in the block.

    The users with most ratings left make the next bundle, which is as long as the least of them allows: what the others
    have beyond that, they bring to a later one. So users of nearly equal counts meet, and bundles are long.
    turn [1]: next block to claim   table [n_blocks, 4]: see `Grid`; first two columns given, last two filled in
    the other arrays are overwritten
    """
    n_streams = bundle_users.shape[1]
    chosen = np.zeros(n_streams, np.int64)
    block = claim(turn.ctypes.data)
    while block < table.shape[0]:
        start, end = block_starts[block], block_starts[block + 1]
        run_starts, left, longest = find_runs(user_places, start, end)
        heads, following = sort_runs(left, longest)
        last_bundle_of = np.full(left.size, -2, np.int64)
        first_bundle, to = table[block, 1], start
        n_open, bundle = left.size, first_bundle
        while n_open > 0:
            width = n_streams if n_open >= n_streams else 1
            continues = False
            for stream in range(width):
                while heads[longest] < 0:
                    longest -= 1
                run = heads[longest]
                heads[longest] = following[run]
                chosen[stream] = run
                bundle_users[bundle, stream] = user_places[run_starts[run]]
                continues |= last_bundle_of[run] == bundle - 1
                last_bundle_of[run] = bundle
            length = left[chosen[width - 1]]
            bundle_lengths[bundle], bundle_continues[bundle] = length, continues
            for stream in range(width):
                run = chosen[stream]
                source = run_starts[run + 1] - left[run]
                for step in range(length):
                    ordered_items[to + step * width + stream] = item_places[source + step]
                    ordered_values[to + step * width + stream] = values[source + step]
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
