"""The kernels behind `app.engine.top_n_index`: bounds in bytes, exact scores of what the bounds let through.

A user is whoever's vector p is looked with; where cosines are asked for, that is an item's. What the bounds are and why
they hold: docs/maths.md.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, njit, types, uint64, void

from app.engine.arrays import Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.byte_vectors import (
    GROUP,
    GROUP_BYTES,
    N_TOGETHER,
    blocks_reaching,
    float_at,
    lowest_bit,
    n_set,
    row_at,
    sum_of_products,
)
from app.engine.lanes import LANES
from app.engine.row_sets import Words
from app.engine.top_n_kernels import (
    READ_ROWS,
    READ_VECTOR,
    cosine_of,
    exact_dot,
    is_worse,
    make_heap,
    sink,
    sort_heap,
)

_tuple_of: Any = types.UniTuple  # Numba is typed in part
_single: Any = float32
_row_number: Any = int32
_one_int32: Any = int32
READ_WORDS = types.Array(uint64, 1, "C", readonly=True)

BLOCKS_OF_GROUP = N_TOGETHER
"""Blocks that one bound by norms covers, and that are looked at together."""
ITEMS_OF_GROUP = LANES * BLOCKS_OF_GROUP

# Of each block of 16 items, the largest; as lines of the group's 8.
SCALE, LEAD_ERROR, NORM, BIAS_SLACK, WHOLE_SCALE, WHOLE_ERROR = range(6)
N_OF_BLOCK = 6

# What the kernels are told of an index: addresses of its arrays and the model's, then sizes.
ORDER, LEAD, WHOLE, BIAS, LENGTH, OF_BLOCK, OF_GROUP, FACTORS, BIASES = range(9)
N_ITEMS, K, N_GROUPS, N_LEAD, LEAD_PARTS, WHOLE_STRIDE = range(9, 15)
N_PLACES = 15

# What a search keeps of each user. First, in this order, what `blocks_reaching` takes.
STEP, LEAD_NORM, LEAD_WEIGHT, WEIGHT, FLOOR, WHOLE_STEP, WHOLE_NORM, WHOLE_WEIGHT, FULL_NORM, START = range(10)
_N_OF_USER = 10

_BELOW_ALL = 1e37
"""A floor that every bound is above: while fewer than n items have been found, none is left out."""
_TINY = 1e-30
"""More than what gets lost below the smallest normal numbers."""
LONGEST = 1e15
"""Users with vectors longer than this, and where cosines are asked for shorter than its inverse, are not bounded."""
SCAN_COST = 1 / 40
"""What an item costs in a scan, in units of scoring one by itself."""
DOES_NOT_FIT = -1
"""What a search gives where a vector or rows to leave out do not fit the model."""

_MOST = 127.0
MIDDLE = 128  # what bytes of items are stored with, so that they have no sign
MOST_REST = 126.0
"""One less than fits, so that rounding upwards fits."""
_PART = GROUP_BYTES


@njit(
    _tuple_of(float64, 2)(float64[::1], int64, float64, int8[::1]),
    nogil=True,
    cache=True,
    fastmath={"contract", "reassoc"},
)
def _quantise(rotated: Vector64, n: int, step: float, in_bytes: Rows) -> tuple[float, float]:
    """Writes the first n whole numbers p_f / step; gives squared norms: of what they are off, and of the result."""
    error, result = 0.0, 0.0
    for f in range(n):
        number = min(_MOST, max(-_MOST, np.rint(rotated[f] / step)))
        in_bytes[f] = int8(number)
        error += (rotated[f] - step * number) ** 2
        result += (step * number) ** 2
    return error, result


@njit(float64(float64), nogil=True, cache=True, inline="always")
def _step_of(wanted: float) -> float:
    """As float32, and 1 where that has no room for its digits."""
    step = float64(_single(wanted))
    return step if step > _TINY else 1.0


@njit(int32(int8[::1], int64), nogil=True, cache=True, inline="always")
def _lowest(in_bytes: Rows, n: int) -> int:
    """What a sum of products begins with, since the items' bytes are stored without sign."""
    total = 0
    for f in range(n):
        total += in_bytes[f]
    return _one_int32(-MIDDLE * total)


@njit(
    void(int64, float64[:, ::1], int64, float64, float64[::1], int8[::1], int8[::1], float32[::1], int32[::1]),
    nogil=True,
    cache=True,
    fastmath={"contract", "reassoc"},
)
def prepare(
    user: int,
    rotation: Matrix64,
    n_lead: int,
    slack: float,
    rotated: Vector64,
    lead: Rows,
    whole: Rows,
    of_user: Vector32,
    lowest: Rows,
) -> None:
    """All that a scan needs of p: turned, in bytes, and the errors of that.

    user: address of p [k]   rotation [k, k]   n_lead: factors of the first stage, at most k; where they are fewer, the
    length of the others is one more byte   rotated [k], lead [> n_lead or k], whole [>= k], of_user, lowest [2]:
    overwritten
    """
    k = rotation.shape[0]
    rotated[:] = 0.0
    for f in range(k):
        factor = float64(float_at(user, f))
        for g in range(k):
            rotated[g] += factor * rotation[f, g]
    largest_lead, largest, squares, rest = 0.0, 0.0, 0.0, 0.0
    for f in range(n_lead):
        largest_lead = max(largest_lead, abs(rotated[f]))
        squares += rotated[f] * rotated[f]
    largest = largest_lead
    for f in range(n_lead, k):
        largest = max(largest, abs(rotated[f]))
        rest += rotated[f] * rotated[f]
    full_norm, beyond = math.sqrt(squares + rest), math.sqrt(rest)
    step = _step_of(max(largest_lead / _MOST, beyond / MOST_REST))
    error, result = _quantise(rotated, n_lead, step, lead)
    of_user[STEP], of_user[LEAD_NORM] = step, math.sqrt(result)
    of_user[LEAD_WEIGHT] = math.sqrt(error) + slack * full_norm
    of_user[FULL_NORM] = full_norm
    lowest[0], lowest[1] = _lowest(lead, n_lead), 0
    if n_lead < k:
        lead[n_lead] = int8(math.ceil(beyond / step))
        step = _step_of(largest / _MOST)
        error, result = _quantise(rotated, k, step, whole)
        of_user[WHOLE_STEP], of_user[WHOLE_NORM] = step, math.sqrt(result)
        of_user[WHOLE_WEIGHT] = math.sqrt(error) + slack * full_norm
        lowest[1] = _lowest(whole, k)


@njit(boolean(int64, READ_WORDS), nogil=True, cache=True, inline="always")
def _is_among(row: int, among: Words) -> bool:
    """Whether the bit of the row is set; without words, all are."""
    return among.size == 0 or (among[row >> 6] >> uint64(row & 63)) & uint64(1) != 0


@njit(int64(int64, int64[::1]), nogil=True, cache=True, inline="always")
def _slot(key: int, table: Offsets) -> int:
    """Where a key stands in a table, or would stand: its size is a power of two, with a -1 in every free slot."""
    last = table.size - 1
    slot = (key * 0x9E3779B1 >> 15) & last
    while table[slot] != key and table[slot] != -1:
        slot = (slot + 1) & last
    return slot


@njit(int64[::1](READ_ROWS, int64[::1], int64), nogil=True, cache=True)
def _table_of(excluded: Rows, ends: Offsets, n_items: int) -> Offsets:
    """A table of row * n_users + u for what each user must not find, empty for nothing, [-2] where rows are not in
    the model. Rows of -1 are passed over."""
    if excluded.size == 0:
        return np.empty(0, np.int64)
    size = 4
    while size < 2 * excluded.size:
        size *= 2
    table = np.full(size, -1, np.int64)
    first = 0
    for u in range(ends.size):
        for place in range(first, ends[u]):
            row = int64(excluded[place])
            if row < -1 or row >= n_items:
                return np.full(1, -2, np.int64)
            if row >= 0:
                key = row * ends.size + u
                table[_slot(key, table)] = key
        first = ends[u]
    return table


@njit(boolean(int64, int64, int64, int64[::1]), nogil=True, cache=True, inline="always")
def _is_hidden(row: int, u: int, n_users: int, table: Offsets) -> bool:
    return table.size != 0 and table[_slot(row * n_users + u, table)] != -1


@njit(float32(int64[::1], int64, float32, boolean, int64), nogil=True, cache=True, inline="always")
def _value(places: Offsets, user: int, start: float, is_cosine: bool, row: int) -> float:
    """The score of a row, or its cosine; start is then the length of p. The same bits as without an index."""
    k = places[K]
    item = places[FACTORS] + row * 4 * k
    if is_cosine:
        return cosine_of(exact_dot(user, item, k), start, _single(math.sqrt(exact_dot(item, item, k))))
    score: float = (start + float_at(places[BIASES], row)) + exact_dot(user, item, k)
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


@njit(float32(int64[::1], int64, float64, boolean), nogil=True, cache=True, inline="always")
def _start_of(places: Offsets, user: int, base: float, is_cosine: bool) -> float:
    """What `_value` begins with: the part of the score that all items share, or the length of p."""
    start: float = _single(math.sqrt(exact_dot(user, user, places[K]))) if is_cosine else _single(base)
    return start


@njit(boolean(int64[::1], boolean, int64, float64[::1]), nogil=True, cache=True)
def _have_bounds(places: Offsets, is_cosine: bool, users: int, bases: Vector64) -> bool:
    """Whether the vectors and bases have a measure that bounds can bear."""
    for u in range(bases.size):
        user = users + 4 * u * places[K]
        square = exact_dot(user, user, places[K])
        if not (square < LONGEST * LONGEST and abs(bases[u]) < LONGEST):
            return False
        if is_cosine and not square > 1 / (LONGEST * LONGEST):
            return False
    return True


@njit(boolean(READ_WORDS, int64), nogil=True, cache=True)
def _has_more(words: Words, limit: int) -> bool:
    """Whether more than so many bits are set."""
    n_bits = 0
    for word in words:
        n_bits += n_set(int64(word))
        if n_bits > limit:
            return True
    return False


@njit(void(float32[::1], int32[::1], int64), nogil=True, cache=True)
def _best_first(best: Vector32, rows: Rows, n_found: int) -> None:
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
    int64(
        int64[::1],
        boolean,
        int64,
        int64,
        int64,
        float32,
        READ_ROWS,
        READ_WORDS,
        int64[::1],
        float32[::1],
        int32[::1],
        int64,
    ),
    nogil=True,
    cache=True,
)
def _offer_rows(
    places: Offsets,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    start: float,
    offered: Rows,
    among: Words,
    hidden: Offsets,
    best: Vector32,
    rows: Rows,
    n_found: int,
) -> int:
    """Scores these rows, each given once, and takes in the best; gives how many there are then.

    among: bits of rows, or none for all   best, rows [n]: what n_found earlier ones left there
    """
    for row in offered:
        if _is_among(row, among) and not _is_hidden(row, u, n_users, hidden):
            value = _value(places, user, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(
    int64(int64[::1], boolean, int64, int64, int64, float32, READ_WORDS, int64[::1], float32[::1], int32[::1]),
    nogil=True,
    cache=True,
)
def _offer_members(
    places: Offsets,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    start: float,
    among: Words,
    hidden: Offsets,
    best: Vector32,
    rows: Rows,
) -> int:
    """As `_offer_rows`, of all the rows whose bits are set, with none found before."""
    n_found, n_items = 0, places[N_ITEMS]
    for number in range((n_items + 63) >> 6):
        word = among[number] if among.size else ~uint64(0)
        while word != 0:
            row = number * 64 + lowest_bit(int64(word))
            word &= word - uint64(1)
            if row >= n_items:
                break
            if _is_hidden(row, u, n_users, hidden):
                continue
            value = _value(places, user, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(
    void(
        int64[::1],
        float64[:, ::1],
        float64,
        boolean,
        int64,
        float64[::1],
        READ_WORDS,
        int64[::1],
        int64,
        float32[::1],
        int32[::1],
        int64[::1],
    ),
    nogil=True,
    cache=True,
)
def _scan(
    places: Offsets,
    rotation: Matrix64,
    slack: float,
    is_cosine: bool,
    users: int,
    bases: Vector64,
    among: Words,
    hidden: Offsets,
    n: int,
    best: Vector32,
    rows: Rows,
    n_found: Offsets,
) -> None:
    """The best rows of each user among those of the index, taken into what was found before.

    users: address of [n_users, k]   bases [n_users]   best, rows [n_users * n]
    """
    n_users, k, n_lead, parts = bases.size, places[K], places[N_LEAD], places[LEAD_PARTS]
    stride, order, extras = places[WHOLE_STRIDE], places[ORDER], places[LENGTH if is_cosine else BIAS]
    whole_parts = (stride + _PART - 1) // _PART
    lead_bytes, whole_bytes = (
        np.zeros((n_users, GROUP * parts), np.int8),
        np.zeros((n_users, _PART * whole_parts), np.int8),
    )
    of_users, rotated = np.zeros((n_users, _N_OF_USER), np.float32), np.empty(k, np.float64)
    lowest = np.empty((n_users, 2), np.int32)
    for u in range(n_users):
        of_user, user = of_users[u], users + 4 * u * k
        prepare(user, rotation, n_lead, slack, rotated, lead_bytes[u], whole_bytes[u], of_user, lowest[u])
        of_user[START] = _start_of(places, user, bases[u], is_cosine)
        of_user[WEIGHT], of_user[FLOOR] = 0 if is_cosine else 1, _BELOW_ALL
        if n_found[u] == n:
            weight, floor = _raised(best[u * n], of_user[START], of_user[FULL_NORM], slack, is_cosine)
            of_user[WEIGHT], of_user[FLOOR] = weight, floor
    for group in range(places[N_GROUPS]):
        highest = float_at(places[OF_GROUP], 2 * group)
        longest = float_at(places[OF_GROUP], 2 * group + 1)
        for u in range(n_users):
            if not is_cosine and highest + of_users[u, FULL_NORM] * longest + of_users[u, FLOOR] < 0:
                continue
            halves = blocks_reaching(
                places[LEAD] + group * BLOCKS_OF_GROUP * parts * GROUP_BYTES,
                parts,
                lead_bytes.ctypes.data + u * GROUP * parts,
                lowest[u, 0],
                places[OF_BLOCK] + group * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP,
                extras + group * 4 * ITEMS_OF_GROUP,
                of_users.ctypes.data + u * 4 * _N_OF_USER,
            )
            if halves[0] | halves[1] == 0:
                continue
            own_best, own_rows = best[u * n : u * n + n], rows[u * n : u * n + n]
            of_user, found = of_users[u], n_found[u]
            for half in range(2):
                bits = halves[0] if half == 0 else halves[1]
                while bits != 0:
                    place = group * ITEMS_OF_GROUP + half * 64 + lowest_bit(bits)
                    bits &= bits - 1
                    row = int64(row_at(order, place))
                    if row < 0 or not _is_among(row, among) or _is_hidden(row, u, n_users, hidden):
                        continue
                    if stride != 0:
                        total = lowest[u, 1] + sum_of_products(
                            places[WHOLE] + place * stride,
                            whole_bytes.ctypes.data + u * _PART * whole_parts,
                            whole_parts,
                        )
                        of_block = places[OF_BLOCK] + group * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP
                        block = place >> 4 & 7
                        bound = (
                            float32(total) * (of_user[WHOLE_STEP] * float_at(of_block, WHOLE_SCALE * 8 + block))
                            + of_user[WEIGHT] * float_at(extras, place)
                            + of_user[WHOLE_NORM] * float_at(of_block, WHOLE_ERROR * 8 + block)
                            + of_user[WHOLE_WEIGHT] * float_at(of_block, NORM * 8 + block)
                            + (float_at(of_block, BIAS_SLACK * 8 + block) + of_user[FLOOR])
                        )
                        if bound < 0:
                            continue
                    value = _value(places, users + 4 * u * k, of_user[START], is_cosine, row)
                    if not _enters(value, row, own_best, own_rows, found):
                        continue
                    found = _enter(value, row, own_best, own_rows, found)
                    if found == n:
                        weight, floor = _raised(own_best[0], of_user[START], of_user[FULL_NORM], slack, is_cosine)
                        of_user[WEIGHT], of_user[FLOOR] = weight, floor
            n_found[u] = found


@njit(
    boolean(
        int64[::1],
        float64[:, ::1],
        float64,
        boolean,
        READ_VECTOR,
        float64[::1],
        READ_ROWS,
        int64[::1],
        READ_WORDS,
        READ_ROWS,
        boolean,
        int64,
        float32[::1],
        int32[::1],
        int64[::1],
    ),
    nogil=True,
    cache=True,
)
def search(
    places: Offsets,
    rotation: Matrix64,
    slack: float,
    is_cosine: bool,
    vectors: Vector32,
    bases: Vector64,
    excluded: Rows,
    excluded_ends: Offsets,
    among: Words,
    offered: Rows,
    only_offered: bool,
    n: int,
    best: Vector32,
    rows: Rows,
    n_found: Offsets,
) -> bool:
    """The n best rows of each user, best first; False, and nothing found, where vectors or excluded rows do not fit
    the model.

    vectors [n_users * k]   bases [n_users]   excluded: those of each user up to its end   among: bits of rows, or none
    for all   offered: each once, in the model; all that
    may be found, or those without bounds   best, rows [n_users * n], n_found [n_users]: overwritten
    """
    n_users, k, users = bases.size, places[K], vectors.ctypes.data
    if vectors.size != n_users * k:
        return False
    hidden = _table_of(excluded, excluded_ends, places[N_ITEMS])
    if hidden.size == 1:
        return False
    n_found[:] = 0
    few = max(int64(places[N_ITEMS] * SCAN_COST), 2 * n)
    is_scanned = (
        not only_offered
        and (_has_more(among, few) if among.size else places[N_ITEMS] > few)
        and _have_bounds(places, is_cosine, users, bases)
    )
    for u in range(n_users):
        user, own = users + 4 * u * k, slice(u * n, u * n + n)
        start = _start_of(places, user, bases[u], is_cosine)
        if only_offered or (is_scanned and offered.size):
            n_found[u] = _offer_rows(
                places, is_cosine, user, u, n_users, start, offered, among, hidden, best[own], rows[own], 0
            )
        elif not is_scanned:
            n_found[u] = _offer_members(places, is_cosine, user, u, n_users, start, among, hidden, best[own], rows[own])
    if is_scanned:
        _scan(places, rotation, slack, is_cosine, users, bases, among, hidden, n, best, rows, n_found)
    for u in range(n_users):
        _best_first(best[u * n : u * n + n], rows[u * n : u * n + n], n_found[u])
    return True


@njit(
    int64(
        int64[::1],
        float64[:, ::1],
        float64,
        boolean,
        READ_VECTOR,
        float64,
        READ_ROWS,
        READ_WORDS,
        READ_ROWS,
        boolean,
        float32[::1],
        int32[::1],
    ),
    nogil=True,
    cache=True,
)
def search_for_one(
    places: Offsets,
    rotation: Matrix64,
    slack: float,
    is_cosine: bool,
    vector: Vector32,
    base: float,
    excluded: Rows,
    among: Words,
    offered: Rows,
    only_offered: bool,
    best: Vector32,
    rows: Rows,
) -> int:
    """`search` for one user: how many were found, or DOES_NOT_FIT."""
    bases, ends, n_found = np.full(1, base), np.full(1, excluded.size), np.empty(1, np.int64)
    is_done = search(
        places,
        rotation,
        slack,
        is_cosine,
        vector,
        bases,
        excluded,
        ends,
        among,
        offered,
        only_offered,
        best.size,
        best,
        rows,
        n_found,
    )
    return n_found[0] if is_done else DOES_NOT_FIT
