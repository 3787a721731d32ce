"""The kernels behind `app.engine.top_n_index`: bounds in bytes, exact scores of what the bounds let through.

A user is whoever's vector p is looked with; where cosines are asked for, that is an item's. What the bounds are and why
they hold: docs/maths.md.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, njit, types, uint64, void

from app.engine.arrays import Matrix32, Offsets, Rows, Vector32, Vector64
from app.engine.byte_vectors import (
    GROUP,
    GROUP_BYTES,
    add_products,
    float_at,
    lowest_bit,
    reaching,
    row_at,
    sums_zero,
)
from app.engine.lanes import LANES
from app.engine.row_sets import Words
from app.engine.top_n_kernels import READ_ROWS, cosine_of, exact_dot, is_worse, make_heap, sink, sort_heap

_tuple_of: Any = types.UniTuple  # Numba is typed in part
_single: Any = float32
_row_number: Any = int32
READ_WORDS = types.Array(uint64, 1, "C", readonly=True)

# Lines of 16 floats for each block of 16 items.
SCALE, REST, BIAS, LENGTH = range(4)
N_LINES = 4
LINE_BYTES = LANES * 4

# Numbers of each block: the largest of its items.
LEAD_ERROR, ERROR, NORM, BIAS_SLACK = range(4)
N_OF_BLOCK = 4

BLOCKS_OF_GROUP = 8
"""Blocks that one bound by norms covers."""

# What the kernels are told of an index: addresses of its arrays and the model's, then sizes.
ORDER, LEAD, TAIL, LINES, OF_BLOCK, OF_GROUP, FACTORS, BIASES, K, N_GROUPS, N_LEAD, N_TAIL = range(12)
N_PLACES = 12

# What a scan keeps of each user: the step of the bytes, norms, and what an item's norm and rest weigh.
STEP, LEAD_NORM, LEAD_WEIGHT, BYTES_NORM, WEIGHT, BEYOND, FULL_NORM = range(7)
_N_OF_USER = 7

_BELOW_ALL = 1e37
"""A floor that every bound is above: while fewer than n items have been found, none is left out."""
_TINY = 1e-30
"""More than what gets lost below the smallest normal numbers."""

_MOST = 127.0
MIDDLE = 128  # what bytes of items are stored with, so that they have no sign


@njit(_tuple_of(float64, 3)(float64[::1], int64, int64, float64, int8[::1]), nogil=True, cache=True)
def _quantise(rotated: Vector64, start: int, stop: int, step: float, in_bytes: Rows) -> tuple[float, float, float]:
    """Writes the whole numbers p_f / step from start to stop; gives squared norms: of p, its error, the result."""
    norm, error, result = 0.0, 0.0, 0.0
    for f in range(start, stop):
        number = min(_MOST, max(-_MOST, np.rint(rotated[f] / step)))
        in_bytes[f] = int8(number)
        norm += rotated[f] * rotated[f]
        error += (rotated[f] - step * number) ** 2
        result += (step * number) ** 2
    return norm, error, result


@njit(
    void(float32[::1], float64[:, ::1], int64, float64, float64[::1], int8[::1], float32[::1], int32[::1]),
    nogil=True,
    cache=True,
    fastmath={"contract"},
)
def prepare(
    user: Vector32,
    rotation: Vector64,
    n_lead: int,
    slack: float,
    rotated: Vector64,
    in_bytes: Rows,
    of_user: Vector32,
    offsets: Rows,
) -> None:
    """All that a scan needs of p: turned, in bytes, and the errors of that.

    user [k]   rotation [k, k]   n_lead: factors of the first stage, at most k   rotated [k], in_bytes [>= k], of_user,
    offsets [2]: overwritten
    """
    k = user.size
    rotated[:] = 0.0
    for f in range(k):
        for g in range(k):
            rotated[g] += user[f] * rotation[f, g]
    largest = 0.0
    for f in range(k):
        largest = max(largest, abs(rotated[f]))
    rounded = float64(float32(largest / _MOST))
    step = rounded if rounded > 0 else 1.0
    lead_norm, lead_error, lead_result = _quantise(rotated, 0, n_lead, step, in_bytes)
    norm, error, result = _quantise(rotated, n_lead, k, step, in_bytes)
    full_norm = math.sqrt(lead_norm + norm)
    of_user[STEP] = step
    of_user[LEAD_NORM] = math.sqrt(lead_result)
    of_user[LEAD_WEIGHT] = math.sqrt(lead_error) + slack * full_norm
    of_user[BYTES_NORM] = math.sqrt(lead_result + result)
    of_user[WEIGHT] = math.sqrt(lead_error + error) + slack * full_norm
    of_user[BEYOND] = math.sqrt(norm)
    of_user[FULL_NORM] = full_norm
    total = 0
    for f in range(n_lead):
        total += in_bytes[f]
    offsets[0] = MIDDLE * total
    for f in range(n_lead, k):
        total += in_bytes[f]
    offsets[1] = MIDDLE * total


@njit(boolean(int64, READ_WORDS), nogil=True, cache=True, inline="always")
def _is_among(row: int, among: Words) -> bool:
    """Whether the bit of the row is set; without words, all are."""
    return among.size == 0 or (among[row >> 6] >> uint64(row & 63)) & uint64(1) != 0


@njit(boolean(int64, READ_ROWS, int64, int64), nogil=True, cache=True)
def _is_listed(row: int, ascending: Rows, start: int, stop: int) -> bool:
    """Whether the row is in this part of the list."""
    while start < stop:
        middle = (start + stop) >> 1
        if ascending[middle] < row:
            start = middle + 1
        else:
            stop = middle
    return start < ascending.size and ascending[start] == row


@njit(float32(int64[::1], int64, float32, boolean, int64), nogil=True, cache=True, inline="always")
def _value(places: Offsets, user: int, base: float, is_cosine: bool, row: int) -> float:
    """The score of a row, or its cosine; base is then the length of p. The same bits as without an index."""
    k = places[K]
    item = places[FACTORS] + row * 4 * k
    if is_cosine:
        return cosine_of(exact_dot(user, item, k), base, _single(math.sqrt(exact_dot(item, item, k))))
    score: float = (base + float_at(places[BIASES], row)) + exact_dot(user, item, k)
    return score


@njit(boolean(float32, int64, float32[::1], int32[::1], int64), nogil=True, cache=True, inline="always")
def _enters(value: float, row: int, best: Vector32, rows: Rows, n_found: int) -> bool:
    """Not NaN, and there is room for it or somebody worse."""
    return value == value and (n_found < best.size or is_worse(best[0], rows[0], value, _row_number(row)))


@njit(int64(float32, int64, float32[::1], int32[::1], int64), nogil=True, cache=True)
def _enter(value: float, row: int, best: Vector32, rows: Rows, n_found: int) -> int:
    """Takes a row in that enters; a heap with the worst at the root once there are n. Gives how many there are."""
    n = best.size
    if n_found == n:
        best[0], rows[0] = value, row
        sink(best, rows, 0, n)
        return n
    best[n_found], rows[n_found] = value, row
    if n_found + 1 == n:
        make_heap(best, rows, n)
    return n_found + 1


@njit(float32(int64[::1], float32[::1], float64, boolean), nogil=True, cache=True)
def base_of(places: Offsets, user: Vector32, base: float, is_cosine: bool) -> float:
    """What `_value` begins with: the part of the score that all items share, or the length of p."""
    p = user.ctypes.data
    start: float = _single(math.sqrt(exact_dot(p, p, places[K]))) if is_cosine else _single(base)
    return start


@njit(
    int64(
        int64[::1], boolean, float32[::1], float64, READ_ROWS, READ_ROWS, READ_WORDS, float32[::1], int32[::1], int64
    ),
    nogil=True,
    cache=True,
)
def offer_rows(
    places: Offsets,
    is_cosine: bool,
    user: Vector32,
    base: float,
    offered: Rows,
    excluded: Rows,
    among: Words,
    best: Vector32,
    rows: Rows,
    n_found: int,
) -> int:
    """Scores these rows, each given once, and takes in the best; gives how many there are then.

    excluded: ascending   among: bits of rows, or none for all   best, rows [n]: what n_found earlier ones left there
    """
    p, start = user.ctypes.data, base_of(places, user, base, is_cosine)
    for row in offered:
        if _is_among(row, among):
            value = _value(places, p, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found) and not _is_listed(row, excluded, 0, excluded.size):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(
    int64(int64[::1], boolean, float32[::1], float64, READ_WORDS, READ_ROWS, float32[::1], int32[::1]),
    nogil=True,
    cache=True,
)
def offer_members(
    places: Offsets,
    is_cosine: bool,
    user: Vector32,
    base: float,
    members: Words,
    excluded: Rows,
    best: Vector32,
    rows: Rows,
) -> int:
    """As `offer_rows`, of the rows whose bits are set, with none found before."""
    p, start, n_found = user.ctypes.data, base_of(places, user, base, is_cosine), 0
    for number in range(members.size):
        word = members[number]
        while word != 0:
            row = number * 64 + lowest_bit(int64(word))
            word &= word - uint64(1)
            value = _value(places, p, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found) and not _is_listed(row, excluded, 0, excluded.size):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def best_first(best: Vector32, rows: Rows, n_found: int) -> None:
    """What was found, in order."""
    if n_found < best.size:
        make_heap(best, rows, n_found)
    sort_heap(best, rows, n_found)


@njit(_tuple_of(float32, 2)(float32, float32, float32, float64, boolean), nogil=True, cache=True, inline="always")
def _raised(worst: float, start: float, norm: float, slack: float, is_cosine: bool) -> tuple[float, float]:
    """What a bound needs to reach the worst of n: the weight of its bias or length, and what is added to it."""
    if is_cosine:
        return _single(-worst * norm), _single(_TINY)
    apart = float64(start) - float64(worst)
    return _single(1), _single(apart + slack * (abs(start) + abs(worst)) + _TINY)


@njit(
    void(
        int64[::1],
        float64[:, ::1],
        float64,
        boolean,
        float32[:, ::1],
        float64[::1],
        READ_ROWS,
        int64[::1],
        READ_WORDS,
        float32[:, ::1],
        int32[:, ::1],
        int64[::1],
    ),
    nogil=True,
    cache=True,
)
def scan(  # noqa: C901  (arrays of registers cannot be handed to functions, and its loops share them)
    places: Offsets,
    rotation: Vector64,
    slack: float,
    is_cosine: bool,
    users: Matrix32,
    bases: Vector64,
    excluded: Rows,
    excluded_ends: Offsets,
    among: Words,
    best: Matrix32,
    rows: Rows,
    n_found: Offsets,
) -> None:
    """The best rows of each user among those of the index, taken into what was found before, best first in the end.

    users [n_users, k]   bases [n_users]   excluded: ascending for each user, up to its end   best, rows [n_users, n]
    """
    n_users, k = users.shape
    n_lead, n_tail, order = places[N_LEAD], places[N_TAIL], places[ORDER]
    in_bytes = np.zeros((n_users, GROUP * (n_lead + n_tail)), np.int8)
    of_users, rotated = np.empty((n_users, _N_OF_USER), np.float32), np.empty(k, np.float64)
    offsets, starts = np.empty((n_users, 2), np.int32), np.empty(n_users, np.float32)
    floors, weights = np.empty(n_users, np.float32), np.empty(n_users, np.float32)
    for u in range(n_users):
        prepare(users[u], rotation, min(k, GROUP * n_lead), slack, rotated, in_bytes[u], of_users[u], offsets[u])
        starts[u] = base_of(places, users[u], bases[u], is_cosine)
        weights[u], floors[u] = float32(0) if is_cosine else float32(1), _BELOW_ALL
        if n_found[u] == best.shape[1]:
            weights[u], floors[u] = _raised(best[u, 0], starts[u], of_users[u, FULL_NORM], slack, is_cosine)
    extra = LENGTH if is_cosine else BIAS
    for group in range(places[N_GROUPS]):
        highest = float_at(places[OF_GROUP], 2 * group)
        longest = float_at(places[OF_GROUP], 2 * group + 1)
        for u in range(n_users):
            if not is_cosine and highest + of_users[u, FULL_NORM] * longest + floors[u] < 0:
                continue
            step, beyond = of_users[u, STEP], of_users[u, BEYOND]
            lead_norm, lead_weight = of_users[u, LEAD_NORM], of_users[u, LEAD_WEIGHT]
            bytes_norm, weight = of_users[u, BYTES_NORM], of_users[u, WEIGHT]
            p = in_bytes.ctypes.data + u * GROUP * (n_lead + n_tail)
            for block in range(group * BLOCKS_OF_GROUP, (group + 1) * BLOCKS_OF_GROUP):
                of_block = places[OF_BLOCK] + block * 4 * N_OF_BLOCK
                norm = float_at(of_block, NORM)
                floor = floors[u] + float_at(of_block, BIAS_SLACK)
                margin = lead_norm * float_at(of_block, LEAD_ERROR) + lead_weight * norm + floor
                sums, items = sums_zero(), places[LEAD] + block * n_lead * GROUP_BYTES
                for part in range(n_lead):
                    sums = add_products(sums, items + part * GROUP_BYTES, p + part * GROUP)
                lines = places[LINES] + block * N_LINES * LINE_BYTES
                bits = reaching(sums, offsets[u, 0], step, lines, beyond, extra, weights[u], margin)
                if bits == 0:
                    continue
                if n_tail:
                    items = places[TAIL] + block * n_tail * GROUP_BYTES
                    for part in range(n_tail):
                        sums = add_products(sums, items + part * GROUP_BYTES, p + (n_lead + part) * GROUP)
                    margin = bytes_norm * float_at(of_block, ERROR) + weight * norm + floor
                    bits = reaching(sums, offsets[u, 1], step, lines, float32(0), extra, weights[u], margin)
                while bits != 0:
                    row = int64(row_at(order, block * LANES + lowest_bit(bits)))
                    bits &= bits - 1
                    if row < 0 or not _is_among(row, among):
                        continue
                    value = _value(places, users.ctypes.data + u * 4 * k, starts[u], is_cosine, row)
                    if not _enters(value, row, best[u], rows[u], n_found[u]):
                        continue
                    first = excluded_ends[u - 1] if u else 0
                    if _is_listed(row, excluded, first, excluded_ends[u]):
                        continue
                    n_found[u] = _enter(value, row, best[u], rows[u], n_found[u])
                    if n_found[u] == best.shape[1]:
                        weights[u], floors[u] = _raised(best[u, 0], starts[u], of_users[u, FULL_NORM], slack, is_cosine)
    for u in range(n_users):
        best_first(best[u], rows[u], n_found[u])
