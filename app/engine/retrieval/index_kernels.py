"""The kernels behind `app.engine.retrieval.index`: bounds in bytes, exact scores of what the bounds let through.

"user" stands for the query vector p, which for cosines is an item's. The bounds, and why they hold: docs/maths.md. Only
kernels that Python calls have a signature: the rest is compiled into them, so that a process has less to load.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, float64, from_dtype, int8, int32, int64, njit, types, uint64
from numba.np.numpy_support import carray

from app.engine.arrays import Offsets, Rows, Vector32, Vector64
from app.engine.data.row_sets import Words
from app.engine.fold_in.kernel_model import pointer
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
"""Blocks that share one bound by norms and are processed together."""
ITEMS_OF_GROUP = LANES * BLOCKS_OF_GROUP

# Maxima over each block of 16 items, as rows of a group's matrix [N_OF_BLOCK, BLOCKS_OF_GROUP].
SCALE, LEAD_ERROR, NORM, BIAS_SLACK, WHOLE_SCALE, WHOLE_ERROR = range(6)
N_OF_BLOCK = 6

_ADDRESSES = (
    *("order", "lead", "whole", "bias", "length", "of_block", "of_group", "rotation"),
    *("item_factors", "item_bias"),
)
_SIZES = ("n_items", "n_factors", "n_groups", "n_lead", "lead_parts", "whole_stride")
INDEX_RECORD = np.dtype([(name, np.int64) for name in (*_ADDRESSES, *_SIZES)] + [("slack", np.float64)])
"""How an index is handed to the kernels: addresses of its arrays and of the model's, sizes, and `slack_of` k."""
INDEX = types.Array(from_dtype(INDEX_RECORD), 1, "C")

# The state of a user, in words of 4 bytes: first the arguments of `blocks_reaching` in its order; the start of the sums
# of products; then the user's quantised vector, in lines of 64 bytes for the first stage and for the whole vector.
STEP, LEAD_NORM, LEAD_WEIGHT, WEIGHT, FLOOR, WHOLE_STEP, WHOLE_NORM, WHOLE_WEIGHT, FULL_NORM, START = range(10)
LOWEST, WHOLE_LOWEST, BYTES = 10, 11, 16
_LINE = 64

_BELOW_ALL = 1e37
"""A floor below every bound: while fewer than n items have been found, none is left out."""
_TINY = 1e-30
"""More than the rounding error of denormal numbers."""
LONGEST = 1e15
"""Vectors longer than this, and for cosines shorter than its inverse, have no bounds."""
SCAN_COST = 1 / 100
"""Cost of an item in a scan, by that of scoring it alone."""
DOES_NOT_FIT = -1
"""The result of a search whose vector or excluded rows do not fit the model."""

_MOST = 127.0
MIDDLE = 128  # added to the bytes of items, so that they are unsigned
WORD_BITS = 64
MOST_REST = 126.0
"""One less than fits, so that rounding upwards fits."""
_FEW = 32
"""Items that are checked one by one as fast as the whole group is bounded again."""


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _quantise(rotated: Vector64, n: int, step: float, in_bytes: Rows) -> tuple[float, float]:
    """Writes round(p_f / step) of the first n; returns the squared norms of the error and of the result."""
    error, result = 0.0, 0.0
    for f in range(n):
        number = min(_MOST, max(-_MOST, math.floor(rotated[f] / step + 0.5)))
        in_bytes[f] = int8(number)
        error += (rotated[f] - step * number) ** 2
        result += (step * number) ** 2
    return error, result


@njit(nogil=True, inline="always")
def _step_of(wanted: float) -> float:
    """As float32; 1 where that would be denormal."""
    step = float64(_single(wanted))
    return step if step > _TINY else 1.0


@njit(nogil=True, inline="always")
def _lowest(in_bytes: Rows) -> int:
    """The start of a sum of products, which undoes that the items' bytes are stored unsigned."""
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
def _rotate(index: Any, user: int, rotated: Vector64) -> None:
    """rotated = rotation' p, four factors at a time, so that the sums stay in registers longer."""
    k = index[0].n_factors
    rotation = carray(pointer(index[0].rotation), (k, k), np.float64)
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
    index: Any,
    user: int,
    rotated: Vector64,
    numbers: Vector32,
    words: Rows,
    in_bytes: Rows,
) -> None:
    """The state of a user for a scan: p rotated and quantised, and the errors of that.

    user: address of p [k]   rotated [k]: overwritten   numbers, words, in_bytes: the user's state, zero before:
    three types of the same memory
    """
    k, n_lead, slack = index[0].n_factors, index[0].n_lead, index[0].slack
    _rotate(index, user, rotated)
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
        whole = lead[_lines(GROUP * index[0].lead_parts) :]
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
    """The slot of a key in a hash table, or the free one for it: the size is a power of two, free slots are -1."""
    last = table.size - 1
    slot = (key * 0x9E3779B1 >> 15) & last
    while table[slot] != key and table[slot] != -1:
        slot = (slot + 1) & last
    return slot


@njit(nogil=True)
def _table_of(excluded: Rows, ends: Offsets, n_items: int) -> Offsets:
    """A hash table of row * n_users + u for each user's excluded rows: empty without any, of size 1 where a row is not
    in the model. Rows of -1 are skipped.

    excluded: those of each user up to its end, in any order, repeated or not
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
def _is_excluded(row: int, u: int, n_users: int, table: Offsets) -> bool:
    return table.size != 0 and table[_slot(row * n_users + u, table)] != -1


@njit(nogil=True, inline="always")
def _value(index: Any, user: int, start: float, is_cosine: bool, row: int) -> float:
    """The score of a row, or its cosine, with start the length of p. The same bits as by brute force."""
    k = index[0].n_factors
    item = index[0].item_factors + row * 4 * k
    if is_cosine:
        return cosine_of(exact_dot(user, item, k), start, _single(math.sqrt(exact_dot(item, item, k))))
    score: float = (start + float_at(index[0].item_bias, row)) + exact_dot(user, item, k)
    return score


@njit(nogil=True, inline="always")
def _enters(value: float, row: int, best: Vector32, rows: Rows, n_found: int) -> bool:
    """Whether a value is not NaN, and there is room for it or a worse one."""
    return value == value and (n_found < best.size or is_worse(best[0], rows[0], value, _row_number(row)))


@njit(nogil=True)
def _enter(value: float, row: int, best: Vector32, rows: Rows, n_found: int) -> int:
    """Inserts a row that enters; a heap with the worst at the root once there are n. Returns how many there are."""
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
def _start_of(index: Any, user: int, base: float, is_cosine: bool) -> float:
    """The start of `_value`: the part of the score that all items share, or the length of p."""
    start: float = _single(math.sqrt(exact_dot(user, user, index[0].n_factors))) if is_cosine else _single(base)
    return start


@njit(nogil=True)
def _have_bounds(index: Any, is_cosine: bool, users: int, bases: Vector64) -> bool:
    """Whether all vectors and bases are of a size for which bounds hold."""
    for u in range(bases.size):
        user = users + 4 * u * index[0].n_factors
        square = exact_dot(user, user, index[0].n_factors)
        if not (square < LONGEST * LONGEST and abs(bases[u]) < LONGEST):
            return False
        if is_cosine and not square > 1 / (LONGEST * LONGEST):
            return False
    return True


@njit(nogil=True)
def _has_more(words: Words, limit: int) -> bool:
    """Whether more bits than the limit are set."""
    n_bits = 0
    for word in words:
        n_bits += n_set(int64(word))
        if n_bits > limit:
            return True
    return False


@njit(nogil=True)
def _best_first(best: Vector32, rows: Rows, n_found: int) -> None:
    """Sorts the found rows."""
    if n_found < best.size:
        make_heap(best, rows, n_found)
    sort_heap(best, rows, n_found)


@njit(nogil=True, inline="always")
def _raise_floor(index: Any, numbers: Vector32, worst: float, is_cosine: bool) -> None:
    """Sets what a bound needs to reach the worst of n: the weight of the bias or length, and a constant."""
    if is_cosine:
        numbers[WEIGHT], numbers[FLOOR] = -worst * numbers[FULL_NORM], _TINY
    else:
        start = numbers[START]
        apart = float64(start) - float64(worst)
        numbers[WEIGHT], numbers[FLOOR] = 1, apart + index[0].slack * (abs(start) + abs(worst)) + _TINY


@njit(nogil=True)
def _offer_rows(
    index: Any,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    start: float,
    offered: Rows,
    among: Words,
    excluded_table: Offsets,
    best: Vector32,
    rows: Rows,
    n_found: int,
) -> int:
    """Scores these rows, each listed once, and inserts the best; returns how many there are then.

    among: bits of rows, or none for all   best, rows [n]: the n_found best so far
    """
    for row in offered:
        if _is_among(row, among) and not _is_excluded(row, u, n_users, excluded_table):
            value = _value(index, user, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(nogil=True)
def _offer_members(
    index: Any,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    start: float,
    among: Words,
    excluded_table: Offsets,
    best: Vector32,
    rows: Rows,
) -> int:
    """`_offer_rows` for all the rows whose bits are set, with none found before."""
    n_found, n_items = 0, index[0].n_items
    for number in range((n_items + 63) >> 6):
        word = among[number] if among.size else ~uint64(0)
        while word != 0:
            row = number * 64 + lowest_bit(int64(word))
            word &= word - uint64(1)
            if row >= n_items:
                break
            if _is_excluded(row, u, n_users, excluded_table):
                continue
            value = _value(index, user, start, is_cosine, row)
            if _enters(value, row, best, rows, n_found):
                n_found = _enter(value, row, best, rows, n_found)
    return n_found


@njit(nogil=True, inline="always")
def _reaching(index: Any, is_cosine: bool, state: int, group: int) -> tuple[int, int]:
    """A bit for each item of a group that the first stage cannot leave out.   state: address of the user's"""
    parts = index[0].lead_parts
    bits: tuple[int, int] = blocks_reaching(
        index[0].lead + group * BLOCKS_OF_GROUP * parts * GROUP_BYTES,
        parts,
        state + 4 * BYTES,
        row_at(state, LOWEST),
        index[0].of_block + group * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP,
        (index[0].length if is_cosine else index[0].bias) + group * 4 * ITEMS_OF_GROUP,
        state,
    )
    return bits


@njit(nogil=True)
def _is_short(index: Any, is_cosine: bool, state: int, place: int) -> bool:
    """Whether the bound by the whole quantised vector leaves this item out."""
    stride = index[0].whole_stride
    if stride == 0:
        return False
    user = state + 4 * BYTES + _lines(GROUP * index[0].lead_parts)
    total = sum_of_products(index[0].whole + place * stride, user, _lines(stride) // _LINE)
    of_group = index[0].of_block + place // ITEMS_OF_GROUP * 4 * N_OF_BLOCK * BLOCKS_OF_GROUP
    of_block = of_group + place // LANES % BLOCKS_OF_GROUP * 4
    unit = float_at(state, WHOLE_STEP) * float_at(of_block, WHOLE_SCALE * BLOCKS_OF_GROUP)
    extra = float_at(state, WEIGHT) * float_at((index[0].length if is_cosine else index[0].bias), place)
    lost = float_at(state, WHOLE_NORM) * float_at(of_block, WHOLE_ERROR * BLOCKS_OF_GROUP)
    apart = float_at(state, WHOLE_WEIGHT) * float_at(of_block, NORM * BLOCKS_OF_GROUP)
    floor = float_at(of_block, BIAS_SLACK * BLOCKS_OF_GROUP) + float_at(state, FLOOR)
    bound: float = _single(row_at(state, WHOLE_LOWEST) + total) * unit + extra + lost + apart + floor
    return bound < 0


@njit(nogil=True, inline="always")
def _fetch_whole(index: Any, first: int, bits: int) -> None:
    """Prefetches the whole vectors whose bits are set."""
    while bits != 0:
        fetch_line(index[0].whole + (first + lowest_bit(bits)) * index[0].whole_stride)
        bits &= bits - 1


@njit(nogil=True, inline="always")
def _insert_group(
    index: Any,
    is_cosine: bool,
    user: int,
    u: int,
    n_users: int,
    numbers: Vector32,
    group: int,
    low: int,
    high: int,
    among: Words,
    excluded_table: Offsets,
    best: Vector32,
    rows: Rows,
    n_found: int,
) -> int:
    """Inserts the best of a group's items whose bits are set; returns how many there are then."""
    state = numbers.ctypes.data
    _fetch_whole(index, group * ITEMS_OF_GROUP, low)
    _fetch_whole(index, group * ITEMS_OF_GROUP + WORD_BITS, high)
    while low | high != 0:
        place = group * ITEMS_OF_GROUP + (lowest_bit(low) if low != 0 else WORD_BITS + lowest_bit(high))
        low, high = low & (low - 1), high if low != 0 else high & (high - 1)
        row = int64(row_at(index[0].order, place))
        if row < 0 or not _is_among(row, among) or _is_excluded(row, u, n_users, excluded_table):
            continue
        if _is_short(index, is_cosine, state, place):
            continue
        value = _value(index, user, numbers[START], is_cosine, row)
        if not _enters(value, row, best, rows, n_found):
            continue
        n_found = _enter(value, row, best, rows, n_found)
        if n_found == best.size:
            _raise_floor(index, numbers, best[0], is_cosine)
            if n_set(low) + n_set(high) > _FEW:
                still = _reaching(index, is_cosine, state, group)
                low, high = low & still[0], high & still[1]
    return n_found


@njit(nogil=True)
def _scan(
    index: Any,
    is_cosine: bool,
    users: int,
    bases: Vector64,
    among: Words,
    excluded_table: Offsets,
    n: int,
    best: Vector32,
    rows: Rows,
    n_found: Offsets,
) -> None:
    """Inserts the best rows of the index into each user's rows so far.

    users: address of [n_users, k]   bases [n_users]   best, rows [n_users * n]
    """
    n_users, k = bases.size, index[0].n_factors
    n_bytes = 4 * BYTES + _lines(GROUP * index[0].lead_parts) + _lines(index[0].whole_stride)
    in_bytes = np.zeros((n_users, n_bytes), np.int8)
    numbers, words, rotated = in_bytes.view(np.float32), in_bytes.view(np.int32), np.empty(k, np.float64)
    for u in range(n_users):
        user = users + 4 * u * k
        prepare(index, user, rotated, numbers[u], words[u], in_bytes[u])
        numbers[u, START] = _start_of(index, user, bases[u], is_cosine)
        numbers[u, WEIGHT], numbers[u, FLOOR] = 0 if is_cosine else 1, _BELOW_ALL
        if n_found[u] == n:
            _raise_floor(index, numbers[u], best[u * n], is_cosine)
    first = numbers.ctypes.data
    for group in range(index[0].n_groups):
        highest = float_at(index[0].of_group, 2 * group)
        longest = float_at(index[0].of_group, 2 * group + 1)
        for u in range(n_users):
            state = first + u * n_bytes
            if not is_cosine and highest + float_at(state, FULL_NORM) * longest + float_at(state, FLOOR) < 0:
                continue
            low, high = _reaching(index, is_cosine, state, group)
            if low | high != 0:
                n_found[u] = _insert_group(
                    index,
                    is_cosine,
                    users + 4 * u * k,
                    u,
                    n_users,
                    numbers[u],
                    group,
                    low,
                    high,
                    among,
                    excluded_table,
                    best[u * n : u * n + n],
                    rows[u * n : u * n + n],
                    n_found[u],
                )


@njit(
    boolean(
        INDEX,
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
    index: Any,
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
    """The n best rows of each user, best first. False, with nothing found, where an argument does not fit the model.

    vectors [n_users * k]   bases [n_users]   excluded: those of each user up to its end   among: bits of rows, or none
    for all   offered: rows of the model, each once: all that may be found, or the outliers, which have no bounds
    best, rows [n_users * n], n_found [n_users]: overwritten
    """
    n_users, k, users = bases.size, index[0].n_factors, vectors.ctypes.data
    if vectors.size != n_users * k:
        return False
    excluded_table = _table_of(excluded, excluded_ends, index[0].n_items)
    if excluded_table.size == 1:
        return False
    n_found[:] = 0
    if n == 0:
        return True
    few = max(int64(index[0].n_items * SCAN_COST), 2 * n)
    is_scanned = (
        not only_offered
        and (_has_more(among, few) if among.size else index[0].n_items > few)
        and _have_bounds(index, is_cosine, users, bases)
    )
    for u in range(n_users):
        user, own = users + 4 * u * k, slice(u * n, u * n + n)
        start = _start_of(index, user, bases[u], is_cosine)
        if only_offered or (is_scanned and offered.size):
            n_found[u] = _offer_rows(
                index, is_cosine, user, u, n_users, start, offered, among, excluded_table, best[own], rows[own], 0
            )
        elif not is_scanned:
            n_found[u] = _offer_members(
                index, is_cosine, user, u, n_users, start, among, excluded_table, best[own], rows[own]
            )
    if is_scanned:
        _scan(index, is_cosine, users, bases, among, excluded_table, n, best, rows, n_found)
    for u in range(n_users):
        _best_first(best[u * n : u * n + n], rows[u * n : u * n + n], n_found[u])
    return True


@njit(
    int64(
        INDEX,
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
    index: Any,
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
    """`search_many` for one user: the number of rows found, or DOES_NOT_FIT."""
    bases, ends, n_found = np.full(1, base), np.full(1, excluded.size), np.empty(1, np.int64)
    is_done = search_many(
        index,
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
