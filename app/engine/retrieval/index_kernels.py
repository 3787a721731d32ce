"""The kernels behind `app.engine.retrieval.index`: bounds in bytes, exact scores of what the bounds let through.

A user is whoever's vector p is looked with; where cosines are asked for, that is an item's. What the bounds are and why
they hold: docs/maths.md. Only what Python calls has a signature: the rest is compiled as a part of it, and a process
that starts has less to load.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, njit, types, uint64

from app.engine.arrays import Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.data.row_sets import Words
from app.engine.numba_types import READ_ROWS, READ_VECTOR
from app.engine.retrieval.brute_force_kernels import cosine_of, exact_dot, is_worse, make_heap, sink, sort_heap
from app.engine.simd.int8_vectors import (
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
from app.engine.simd.lanes import LANES, fetch_line

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

# What a search keeps of each user, in words of 4 bytes: first those of `blocks_reaching` in its order; what sums of
# products begin with; then the user's bytes, lines of 64 of them for the first stage and for whole vectors.
STEP, LEAD_NORM, LEAD_WEIGHT, WEIGHT, FLOOR, WHOLE_STEP, WHOLE_NORM, WHOLE_WEIGHT, FULL_NORM, START = range(10)
LOWEST, WHOLE_LOWEST, BYTES = 10, 11, 16
_LINE = 64

_BELOW_ALL = 1e37
"""A floor that every bound is above: while fewer than n items have been found, none is left out."""
_TINY = 1e-30
"""More than what gets lost below the smallest normal numbers."""
LONGEST = 1e15
"""Users with vectors longer than this, and where cosines are asked for shorter than its inverse, are not bounded."""
SCAN_COST = 1 / 100
"""What an item costs in a scan, in units of scoring one by itself."""
DOES_NOT_FIT = -1
"""What a search gives where a vector or rows to leave out do not fit the model."""

_MOST = 127.0
MIDDLE = 128  # what bytes of items are stored with, so that they have no sign
LONG = 64  # bits of a number
MOST_REST = 126.0
"""One less than fits, so that rounding upwards fits."""
_FEW = 32
"""Items that are looked at one by one as fast as all of the group together again."""


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _quantise(rotated: Vector64, n: int, step: float, in_bytes: Rows) -> tuple[float, float]:
    """Writes the first n whole numbers p_f / step; gives squared norms: of what they are off, and of the result."""
    error, result = 0.0, 0.0
    for f in range(n):
        number = min(_MOST, max(-_MOST, math.floor(rotated[f] / step + 0.5)))
        in_bytes[f] = int8(number)
        error += (rotated[f] - step * number) ** 2
        result += (step * number) ** 2
    return error, result


@njit(nogil=True, inline="always")
def _step_of(wanted: float) -> float:
    """As float32, and 1 where that has no room for its digits."""
    step = float64(_single(wanted))
    return step if step > _TINY else 1.0


@njit(nogil=True, inline="always")
def _lowest(in_bytes: Rows) -> int:
    """What a sum of products begins with, since the items' bytes are stored without sign."""
    total = 0
    for number in in_bytes:
        total += number
    lowest: int = _one_int32(-MIDDLE * total)
    return lowest


@njit(nogil=True, inline="always")
def _lines(n_bytes: int) -> int:
    """The next multiple of 64."""
    return (n_bytes + _LINE - 1) // _LINE * _LINE


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _turn(user: int, rotation: Matrix64, rotated: Vector64) -> None:
    """rotated = rotation' p, four factors at a time: what is added to stays in registers longer."""
    k = rotation.shape[0]
    rotated[:] = 0.0
    whole = k - k % 4
    for f in range(0, whole, 4):
        p0, p1 = float64(float_at(user, f)), float64(float_at(user, f + 1))
        p2, p3 = float64(float_at(user, f + 2)), float64(float_at(user, f + 3))
        for g in range(k):
            rotated[g] += (p0 * rotation[f, g] + p1 * rotation[f + 1, g]) + (
                p2 * rotation[f + 2, g] + p3 * rotation[f + 3, g]
            )
    for f in range(whole, k):
        for g in range(k):
            rotated[g] += float64(float_at(user, f)) * rotation[f, g]


@njit(nogil=True, fastmath={"contract", "reassoc"})
def prepare(
    places: Offsets,
    rotation: Matrix64,
    slack: float,
    user: int,
    rotated: Vector64,
    numbers: Vector32,
    words: Rows,
    in_bytes: Rows,
) -> None:
    """All that a scan needs of p: turned, in bytes, and the errors of that.

    rotation [k, k]   user: address of p [k]   rotated [k]: overwritten   numbers, words, in_bytes: what is kept of the
    user, zero before, as one type and another
    """
    k, n_lead = rotation.shape[0], places[N_LEAD]
    _turn(user, rotation, rotated)
    largest_lead, largest, squares, rest = 0.0, 0.0, 0.0, 0.0
    for f in range(n_lead):
        largest_lead = max(largest_lead, abs(rotated[f]))
        squares += rotated[f] * rotated[f]
    for f in range(n_lead, k):
        largest = max(largest, abs(rotated[f]))
        rest += rotated[f] * rotated[f]
    full_norm, beyond = math.sqrt(squares + rest), math.sqrt(rest)
    step = _step_of(max(largest_lead / _MOST, beyond / MOST_REST))
    lead = in_bytes[4 * BYTES :]
    error, result = _quantise(rotated, n_lead, step, lead)
    numbers[STEP], numbers[LEAD_NORM] = step, math.sqrt(result)
    numbers[LEAD_WEIGHT] = math.sqrt(error) + slack * full_norm
    numbers[FULL_NORM] = full_norm
    words[LOWEST] = _lowest(lead[:n_lead])
    if n_lead < k:
        lead[n_lead] = int8(math.ceil(beyond / step))
        whole = lead[_lines(GROUP * places[LEAD_PARTS]) :]
        step = _step_of(max(largest_lead, largest) / _MOST)
        error, result = _quantise(rotated, k, step, whole)
        numbers[WHOLE_STEP], numbers[WHOLE_NORM] = step, math.sqrt(result)
        numbers[WHOLE_WEIGHT] = math.sqrt(error) + slack * full_norm
        words[WHOLE_LOWEST] = _lowest(whole[:k])


@njit(nogil=True, inline="always")
def _is_among(row: int, among: Words) -> bool:
    """Whether the bit of the row is set; without words, all are."""
    return among.size == 0 or (among[row >> 6] >> uint64(row & 63)) & uint64(1) != 0


@njit(nogil=True, inline="always")
def _slot(key: int, table: Offsets) -> int:
    """Where a key stands in a table, or would stand: its size is a power of two, with a -1 in every free slot."""
    last = table.size - 1
    slot = (key * 0x9E3779B1 >> 15) & last
    while table[slot] != key and table[slot] != -1:
        slot = (slot + 1) & last
    return slot


@njit(nogil=True)
def _table_of(excluded: Rows, ends: Offsets, n_items: int) -> Offsets:
    """A table of row * n_users + u for what each user must not find: empty for nothing, of one entry where a row is not
    in the model. Rows of -1 are passed over.

    excluded: those of each user up to its end, in any order, as often as they like
    """
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
                return np.empty(1, np.int64)
            if row >= 0:
                key = row * ends.size + u
                table[_slot(key, table)] = key
        first = ends[u]
    return table


@njit(nogil=True, inline="always")
def _is_hidden(row: int, u: int, n_users: int, table: Offsets) -> bool:
    return table.size != 0 and table[_slot(row * n_users + u, table)] != -1


@njit(nogil=True, inline="always")
def _value(places: Offsets, user: int, start: float, is_cosine: bool, row: int) -> float:
    """The score of a row, or its cosine; start is then the length of p. The same bits as without an index."""
    k = places[K]
    item = places[FACTORS] + row * 4 * k
    if is_cosine:
        return cosine_of(exact_dot(user, item, k), start, _single(math.sqrt(exact_dot(item, item, k))))
    score: float = (start + float_at(places[BIASES], row)) + exact_dot(user, item, k)
    return score


@njit(nogil=True, inline="always")
def _enters(value: float, row: int, best: Vector32, rows: Rows, n_found: int) -> bool:
    """Not NaN, and there is room for it or somebody worse."""
    return value == value and (n_found < best.size or is_worse(best[0], rows[0], value, _row_number(row)))


@njit(nogil=True)
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


@njit(nogil=True, inline="always")
def _start_of(places: Offsets, user: int, base: float, is_cosine: bool) -> float:
    """What `_value` begins with: the part of the score that all items share, or the length of p."""
    start: float = _single(math.sqrt(exact_dot(user, user, places[K]))) if is_cosine else _single(base)
    return start


@njit(nogil=True)
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


@njit(nogil=True)
def _has_more(words: Words, limit: int) -> bool:
    """Whether more than so many bits are set."""
    n_bits = 0
    for word in words:
        n_bits += n_set(int64(word))
        if n_bits > limit:
            return True
    return False


@njit(nogil=True)
def _best_first(best: Vector32, rows: Rows, n_found: int) -> None:
    """What was found, in order."""
    if n_found < best.size:
        make_heap(best, rows, n_found)
    sort_heap(best, rows, n_found)


@njit(nogil=True, inline="always")
def _raise_floor(numbers: Vector32, worst: float, slack: float, is_cosine: bool) -> None:
    """What a bound needs to reach the worst of n: the weight of its bias or length, and what is added to it."""
    if is_cosine:
        numbers[WEIGHT], numbers[FLOOR] = -worst * numbers[FULL_NORM], _TINY
    else:
        start = numbers[START]
        apart = float64(start) - float64(worst)
        numbers[WEIGHT], numbers[FLOOR] = 1, apart + slack * (abs(start) + abs(worst)) + _TINY


@njit(nogil=True)
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


@njit(nogil=True)
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


@njit(nogil=True, inline="always")
def _reaching(places: Offsets, is_cosine: bool, kept: int, group: int) -> tuple[int, int]:
    """A bit for each item of a group that the first stage cannot leave out.   kept: address of what is of the user"""
    parts = places[LEAD_PARTS]
    bits: tuple[int, int] = blocks_reaching(
        places[LEAD] + group * BLOCKS_OF_GROUP * parts * GROUP_BYTES,
        parts,
        kept + 4 * BYTES,
        row_at(kept, LOWEST),
        places[OF_BLOCK] + group * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP,
        places[LENGTH if is_cosine else BIAS] + group * 4 * ITEMS_OF_GROUP,
        kept,
    )
    return bits


@njit(nogil=True)
def _is_short(places: Offsets, is_cosine: bool, kept: int, place: int) -> bool:
    """Whether the whole vector in bytes leaves this item out."""
    stride = places[WHOLE_STRIDE]
    if stride == 0:
        return False
    user = kept + 4 * BYTES + _lines(GROUP * places[LEAD_PARTS])
    total = sum_of_products(places[WHOLE] + place * stride, user, _lines(stride) // _LINE)
    of_group = places[OF_BLOCK] + place // ITEMS_OF_GROUP * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP
    of_block = of_group + place // LANES % BLOCKS_OF_GROUP * 4
    unit = float_at(kept, WHOLE_STEP) * float_at(of_block, WHOLE_SCALE * BLOCKS_OF_GROUP)
    extra = float_at(kept, WEIGHT) * float_at(places[LENGTH if is_cosine else BIAS], place)
    lost = float_at(kept, WHOLE_NORM) * float_at(of_block, WHOLE_ERROR * BLOCKS_OF_GROUP)
    apart = float_at(kept, WHOLE_WEIGHT) * float_at(of_block, NORM * BLOCKS_OF_GROUP)
    floor = float_at(of_block, BIAS_SLACK * BLOCKS_OF_GROUP) + float_at(kept, FLOOR)
    bound: float = _single(row_at(kept, WHOLE_LOWEST) + total) * unit + extra + lost + apart + floor
    return bound < 0


@njit(nogil=True, inline="always")
def _fetch_whole(places: Offsets, first: int, bits: int) -> None:
    """The whole vectors whose bits are set are on their way, together."""
    while bits != 0:
        fetch_line(places[WHOLE] + (first + lowest_bit(bits)) * places[WHOLE_STRIDE])
        bits &= bits - 1


@njit(nogil=True, inline="always")
def _take_in(
    places: Offsets,
    slack: float,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    numbers: Vector32,
    group: int,
    low: int,
    high: int,
    among: Words,
    hidden: Offsets,
    best: Vector32,
    rows: Rows,
    n_found: int,
) -> int:
    """Takes in the best of a group's items whose bits are set; gives how many there are then."""
    kept = numbers.ctypes.data
    _fetch_whole(places, group * ITEMS_OF_GROUP, low)
    _fetch_whole(places, group * ITEMS_OF_GROUP + LONG, high)
    while low | high != 0:
        place = group * ITEMS_OF_GROUP + (lowest_bit(low) if low != 0 else LONG + lowest_bit(high))
        low, high = low & (low - 1), high if low != 0 else high & (high - 1)
        row = int64(row_at(places[ORDER], place))
        if row < 0 or not _is_among(row, among) or _is_hidden(row, u, n_users, hidden):
            continue
        if _is_short(places, is_cosine, kept, place):
            continue
        value = _value(places, user, numbers[START], is_cosine, row)
        if not _enters(value, row, best, rows, n_found):
            continue
        n_found = _enter(value, row, best, rows, n_found)
        if n_found == best.size:
            _raise_floor(numbers, best[0], slack, is_cosine)
            if n_set(low) + n_set(high) > _FEW:
                still = _reaching(places, is_cosine, kept, group)
                low, high = low & still[0], high & still[1]
    return n_found


@njit(nogil=True)
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
    n_users, k = bases.size, places[K]
    n_bytes = 4 * BYTES + _lines(GROUP * places[LEAD_PARTS]) + _lines(places[WHOLE_STRIDE])
    in_bytes = np.zeros((n_users, n_bytes), np.int8)
    numbers, words, rotated = in_bytes.view(np.float32), in_bytes.view(np.int32), np.empty(k, np.float64)
    for u in range(n_users):
        user = users + 4 * u * k
        prepare(places, rotation, slack, user, rotated, numbers[u], words[u], in_bytes[u])
        numbers[u, START] = _start_of(places, user, bases[u], is_cosine)
        numbers[u, WEIGHT], numbers[u, FLOOR] = 0 if is_cosine else 1, _BELOW_ALL
        if n_found[u] == n:
            _raise_floor(numbers[u], best[u * n], slack, is_cosine)
    first = numbers.ctypes.data
    for group in range(places[N_GROUPS]):
        highest = float_at(places[OF_GROUP], 2 * group)
        longest = float_at(places[OF_GROUP], 2 * group + 1)
        for u in range(n_users):
            kept = first + u * n_bytes
            if not is_cosine and highest + float_at(kept, FULL_NORM) * longest + float_at(kept, FLOOR) < 0:
                continue
            low, high = _reaching(places, is_cosine, kept, group)
            if low | high != 0:
                n_found[u] = _take_in(
                    places,
                    slack,
                    is_cosine,
                    users + 4 * u * k,
                    u,
                    n_users,
                    numbers[u],
                    group,
                    low,
                    high,
                    among,
                    hidden,
                    best[u * n : u * n + n],
                    rows[u * n : u * n + n],
                    n_found[u],
                )


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
def search_many(
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
    """The n best rows of each user, best first. False, and nothing found, where something does not fit the model.

    vectors [n_users * k]   bases [n_users]   excluded: those of each user up to its end   among: bits of rows, or none
    for all   offered: rows of the model, each once: all that may be found, or those that have no bounds
    best, rows [n_users * n], n_found [n_users]: overwritten
    """
    n_users, k, users = bases.size, places[K], vectors.ctypes.data
    if vectors.size != n_users * k:
        return False
    hidden = _table_of(excluded, excluded_ends, places[N_ITEMS])
    if hidden.size == 1:
        return False
    n_found[:] = 0
    if n == 0:
        return True
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
def search_one(
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
    """`search_many` for one user: how many were found, or DOES_NOT_FIT."""
    bases, ends, n_found = np.full(1, base), np.full(1, excluded.size), np.empty(1, np.int64)
    is_done = search_many(
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
