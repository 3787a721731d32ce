"""Explicit vectors for retrieval: sums of products of bytes, 16 items at a time, and float sums in one fixed order.

Where the processor multiplies bytes (AVX512-VNNI) a step is that one instruction; elsewhere it is written so that LLVM
finds the 16-bit multiply-add that AVX2 has (vpmaddwd), and legal code on anything. Both give the same whole numbers.
Addresses are those of arrays that the caller holds on to; nothing need be aligned.
"""

from collections.abc import Sequence
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types
from numba.core import cgutils

from app.engine.simd.float_vectors import wide_type
from app.engine.simd.lanes import LANES

# Numba is typed in part; what these make is called from kernels only, with other arguments than it is written with.
_intrinsic: Any = numba.extending.intrinsic
_tuple_of: Any = types.UniTuple
_kept_in: Any = cgutils.alloca_once_value  # a place that LLVM turns into a register

_BIT, _BYTE, _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()
_WIDE = ir.VectorType(_FLOAT, LANES)
_SUMS = ir.VectorType(_INT32, LANES)
_PAIRS = ir.VectorType(_INT16, 2 * LANES)
_BYTES = ir.VectorType(_BYTE, 4 * LANES)
_EIGHT = ir.VectorType(_FLOAT, 8)

GROUP = 4
"""Bytes whose products are added up in one step."""
GROUP_BYTES = GROUP * LANES
N_TOGETHER = 8
"""Blocks of 16 items that are looked at together."""


def multiplies_bytes(codegen: Any) -> bool:
    """Whether kernels of this Numba code generator may use AVX512-VNNI; part of the key of Numba's cache."""
    _, _, features = codegen.magic_tuple()
    return "+avx512vnni" in features.split(",")


def _reaching(one_instruction: bool | None) -> Any:
    @_intrinsic
    def blocks_reaching(
        _typing: Any, _items: Any, _n_parts: Any, _user: Any, _lowest: Any, _facts: Any, _extras: Any, _numbers: Any
    ) -> Any:
        """blocks_reaching(items, n_parts, user, lowest, facts, extras, numbers) -> two numbers of 64 bits

        A bit for each item of 8 blocks of 16 where

            (lowest + sum) step scale + weight extra + error_weight error + norm_weight norm + slack + floor >= 0

        sum: products of its 4 n_parts bytes at items [8, n_parts, 16, 4], 0..255, with those at user [n_parts, 4],
        -128..127   scale, error, norm, slack: of each block, the first lines at facts [4, 8]   extras [8, 16]
        step, error_weight, norm_weight, weight, floor: at numbers
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            items, n_parts, user, lowest, facts, extras, numbers = arguments
            dot = _dot_of(context, one_instruction)
            sums = _sums_of_blocks(builder, dot, items, n_parts, user, lowest)
            scale, error, norm, slack = (_load(builder, _ahead(builder, facts, 32 * line), _EIGHT) for line in range(4))
            step, error_weight, norm_weight, weight, floor = (
                _load(builder, _ahead(builder, numbers, 4 * place), _FLOAT) for place in range(5)
            )
            unit = builder.fmul(scale, _spread(builder, step, _EIGHT))
            margin = builder.fadd(slack, _spread(builder, floor, _EIGHT))
            margin = _fused(builder, norm, _spread(builder, norm_weight, _EIGHT), margin)
            margin = _fused(builder, error, _spread(builder, error_weight, _EIGHT), margin)
            weights, bits = _spread(builder, weight, _WIDE), []
            for block in range(N_TOGETHER):
                extra = _load(builder, _ahead(builder, extras, 64 * block), _WIDE)
                rest = _fused(builder, extra, weights, _picked(builder, margin, [block] * LANES))
                units = _picked(builder, unit, [block] * LANES)
                bound = _fused(builder, builder.sitofp(sums[block], _WIDE), units, rest)
                reached = builder.fcmp_ordered(">=", bound, ir.Constant(_WIDE, [0.0] * LANES))
                bits.append(builder.zext(builder.bitcast(reached, _INT16), _INT64))
            halves = [_joined(builder, bits[:4]), _joined(builder, bits[4:])]
            return context.make_tuple(builder, signature.return_type, halves)

        place, two = types.int64, _tuple_of(types.int64, 2)
        return two(place, place, place, types.int32, place, place, place), generate

    return blocks_reaching


def _sums_of_blocks(builder: Any, dot: Any, items: Any, n_parts: Any, user: Any, lowest: Any) -> list[Any]:
    """A loop over the parts with one register of sums for each block."""
    kept = [_kept_in(builder, _spread(builder, lowest, _SUMS)) for _ in range(N_TOGETHER)]
    apart = builder.mul(n_parts, ir.Constant(_INT64, GROUP_BYTES))
    with cgutils.for_range(builder, n_parts) as loop:
        wanted = _load(builder, builder.add(user, builder.mul(loop.index, ir.Constant(_INT64, GROUP))), _INT32)
        signed = builder.bitcast(_spread(builder, wanted, _SUMS), _BYTES)
        place = builder.add(items, builder.mul(loop.index, ir.Constant(_INT64, GROUP_BYTES)))
        for sums in kept:
            builder.store(dot(builder, builder.load(sums), _load(builder, place, _BYTES), signed), sums)
            place = builder.add(place, apart)
    return [builder.load(sums) for sums in kept]


def _joined(builder: Any, bits: Sequence[Any]) -> Any:
    """Four times 16 bits as one number."""
    joined = bits[0]
    for place, some in enumerate(bits[1:], start=1):
        joined = builder.or_(joined, builder.shl(some, ir.Constant(_INT64, LANES * place)))
    return joined


def _summing(one_instruction: bool | None) -> Any:
    @_intrinsic
    def sum_of_products(_typing: Any, _item: Any, _user: Any, _n_parts: Any) -> Any:
        """sum_of_products(item, user, n_parts) -> of 64 n_parts bytes at item, 0..255, by those at user, -128..127."""

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            item, user, n_parts = arguments
            dot = _dot_of(context, one_instruction)
            sums = _kept_in(builder, ir.Constant(_SUMS, [0] * LANES))
            with cgutils.for_range(builder, n_parts) as loop:
                ahead = builder.mul(loop.index, ir.Constant(_INT64, GROUP_BYTES))
                unsigned, signed = (_load(builder, builder.add(each, ahead), _BYTES) for each in (item, user))
                builder.store(dot(builder, builder.load(sums), unsigned, signed), sums)
            total = _declared(builder, "llvm.vector.reduce.add.v16i32", _INT32, [_SUMS])
            return builder.call(total, [builder.load(sums)])

        return types.int32(types.int64, types.int64, types.int64), generate

    return sum_of_products


def _dot_of(context: Any, one_instruction: bool | None) -> Any:
    has_one = multiplies_bytes(context.codegen()) if one_instruction is None else one_instruction
    return _by_one_instruction if has_one else _by_pairs


def _by_one_instruction(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    dot = _declared(builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, [_SUMS, _BYTES, _BYTES])
    return builder.call(dot, [sums, unsigned, signed])


def _by_pairs(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """Even and odd bytes as 16-bit numbers; products of two of those and their sum fit 32 bits easily."""
    eight = ir.Constant(_PAIRS, [8] * 2 * LANES)
    low_byte = ir.Constant(_PAIRS, [255] * 2 * LANES)
    u, s = builder.bitcast(unsigned, _PAIRS), builder.bitcast(signed, _PAIRS)
    even = _added_pairs(builder, builder.and_(u, low_byte), builder.ashr(builder.shl(s, eight), eight))
    odd = _added_pairs(builder, builder.lshr(u, eight), builder.ashr(s, eight))
    return builder.add(sums, builder.add(even, odd))


def _added_pairs(builder: Any, left: Any, right: Any) -> Any:
    """left_2i right_2i + left_2i+1 right_2i+1: LLVM knows this as one instruction."""
    halves = [
        [builder.sext(_picked(builder, pairs, range(start, 2 * LANES, 2)), _SUMS) for pairs in (left, right)]
        for start in (0, 1)
    ]
    return builder.add(*[builder.mul(*half) for half in halves])


blocks_reaching, sum_of_products = _reaching(None), _summing(None)
blocks_reaching_by_pairs, sum_of_products_by_pairs = _reaching(False), _summing(False)
"""What these are without AVX512-VNNI, on any processor, so that tests can see it."""


@_intrinsic
def lowest_bit(_typing: Any, _bits: Any) -> Any:
    """lowest_bit(bits) -> the number of the lowest bit that is set; some must be."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        count = _declared(builder, "llvm.cttz.i64", _INT64, [_INT64, _BIT])
        return builder.call(count, [arguments[0], ir.Constant(_BIT, 1)])

    return types.int64(types.int64), generate


@_intrinsic
def fetch_line(_typing: Any, _address: Any) -> Any:
    """fetch_line(address): the 64 bytes there are on their way to the nearest cache, for reading."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        hint = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32])
        builder.call(hint, [pointer, *(ir.Constant(_INT32, choice) for choice in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_intrinsic
def n_set(_typing: Any, _bits: Any) -> Any:
    """n_set(bits) -> how many bits are set."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.call(_declared(builder, "llvm.ctpop.i64", _INT64, [_INT64]), arguments)

    return types.int64(types.int64), generate


@_intrinsic
def add_wide_products(_typing: Any, _sums: Any, _left: Any, _right: Any) -> Any:
    """add_wide_products(a, left, right) -> a plus products of the 16 floats at both addresses, each rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        sums, left, right = arguments
        return _fused(builder, _load(builder, left, _WIDE), _load(builder, right, _WIDE), sums)

    return wide_type(wide_type, types.int64, types.int64), generate


@_intrinsic
def add_first_products(_typing: Any, _sums: Any, _left: Any, _right: Any, _count: Any) -> Any:
    """As `add_wide_products`, but for the first `count` floats only; what lies behind them is not read."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        sums, left, right, count = arguments
        lanes = ir.Constant(_SUMS, list(range(LANES)))
        limit = _spread(builder, builder.trunc(count, _INT32), _SUMS)
        first = builder.icmp_signed("<", lanes, limit)
        values = [_load_where(builder, address, first) for address in (left, right)]
        return _fused(builder, values[0], values[1], sums)

    return wide_type(wide_type, types.int64, types.int64, types.int64), generate


@_intrinsic
def ordered_sum(_typing: Any, _wide: Any) -> Any:
    """ordered_sum(a) -> the sum of its lanes, always in the same order: halves are added four times over."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = arguments[0]
        while value.type.count > 2:
            half = value.type.count // 2
            value = builder.fadd(_picked(builder, value, range(half)), _picked(builder, value, range(half, 2 * half)))
        return builder.fadd(*(builder.extract_element(value, ir.Constant(_INT32, lane)) for lane in (0, 1)))

    return types.float32(wide_type), generate


def _reader(llvm_type: Any, numba_type: Any, size: int) -> Any:
    @_intrinsic
    def value_at(_typing: Any, _address: Any, _index: Any) -> Any:
        """value_at(address, index) -> entry `index` of the array there."""

        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            address, index = arguments
            place = builder.add(address, builder.mul(index, ir.Constant(_INT64, size)))
            return _load(builder, place, llvm_type)

        return numba_type(types.int64, types.int64), generate

    return value_at


float_at = _reader(_FLOAT, types.float32, 4)
row_at = _reader(_INT32, types.int32, 4)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    load = builder.load(builder.inttoptr(address, kind.as_pointer()))
    load.align = 1
    return load


def _load_where(builder: Any, address: Any, mask: Any) -> Any:
    place = builder.inttoptr(address, _WIDE.as_pointer())
    bits = ir.VectorType(_BIT, LANES)
    load = _declared(builder, "llvm.masked.load.v16f32.p0", _WIDE, [_WIDE.as_pointer(), _INT32, bits, _WIDE])
    return builder.call(load, [place, ir.Constant(_INT32, 4), mask, ir.Constant(_WIDE, [0.0] * LANES)])


def _ahead(builder: Any, address: Any, n_bytes: int) -> Any:
    return builder.add(address, ir.Constant(_INT64, n_bytes))


def _spread(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT32, 0))
    return _picked(builder, single, [0] * vector.count)


def _picked(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes)))


def _fused(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    kind = left.type
    return builder.call(_declared(builder, f"llvm.fma.v{kind.count}f32", kind, [kind] * 3), [left, right, addend])


def _declared(builder: Any, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
