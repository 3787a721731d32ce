"""The kernels that move ratings to their blocks."""

import numpy as np
from numba import float32, int32, int64, njit, void
from numba.core.types import Array

from app.engine.arrays import Offsets, Rows, Vector32
from app.engine.lanes import claim

READ_ROWS = Array(int32, 1, "C", readonly=True)
READ_VECTOR = Array(float32, 1, "C", readonly=True)
READ_OFFSETS = Array(int64, 1, "C", readonly=True)

N_STREAMS = 8
"""Users interleaved in a block: enough to keep the multipliers busy, few enough for their vectors to stay in L1."""


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


@njit(
    void(
        READ_ROWS,
        READ_ROWS,
        READ_VECTOR,
        READ_OFFSETS,
        READ_OFFSETS,
        int64,
        int64[::1],
        int32[::1],
        int32[::1],
        float32[::1],
    ),
    nogil=True,
    cache=True,
)
def order_blocks(
    user_places: Rows,
    item_places: Rows,
    values: Vector32,
    block_starts: Offsets,
    user_starts: Offsets,
    n_groups: int,
    turn: Offsets,
    ordered_users: Rows,
    ordered_items: Rows,
    ordered_values: Vector32,
) -> None:
    """Inside each block that this caller claims: a stable counting sort by user, cut in 8 and interleaved.

    Rating j of the sorted block, of n, is in stream j // (n // 8) and goes to place (j mod (n // 8)) * 8 + stream; the
    last n mod 8 stay at the end.    turn [1]: next block to claim    last three [n], overwritten
    """
    block = claim(turn.ctypes.data)
    while block < n_groups * n_groups:
        start, end = block_starts[block], block_starts[block + 1]
        first_user = user_starts[block // n_groups]
        n_users = user_starts[block // n_groups + 1] - first_user
        stream_length = (end - start) // N_STREAMS
        sorted_place = np.zeros(n_users + 1, np.int64)
        for at in range(start, end):
            sorted_place[user_places[at] - first_user + 1] += 1
        for user in range(n_users):
            sorted_place[user + 1] += sorted_place[user]
        for at in range(start, end):
            user = user_places[at] - first_user
            to = sorted_place[user]
            sorted_place[user] = to + 1
            if to < stream_length * N_STREAMS:
                to = (to % stream_length) * N_STREAMS + to // stream_length
            ordered_users[start + to] = user_places[at]
            ordered_items[start + to] = item_places[at]
            ordered_values[start + to] = values[at]
        block = claim(turn.ctypes.data)
