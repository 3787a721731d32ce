"""Explicit vectors for retrieval: sums of products of bytes, 16 items at a time, and float sums in one fixed order.

Where the processor multiplies bytes (AVX512-VNNI) a step is that one instruction; elsewhere it is written so that LLVM
finds the 16-bit multiply-add that AVX2 has (vpmaddwd), and legal code on anything. Both give the same whole numbers.
Addresses are those of arrays that the caller holds on to; nothing need be aligned.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from app.engine.simd.float_vectors import wide_type
from app.engine.simd.lanes import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    WIDE,
    broadcast,
    declared,
    fused,
    intrinsic_of,
    intrinsic_with_context,
    pick,
)

_tuple_of: Any = types.UniTuple
_register_with: Any = cgutils.alloca_once_value  # a stack slot, which LLVM turns into a register

_BIT, _BYTE, _INT16 = (ir.IntType(bits) for bits in (1, 8, 16))
_SUMS = ir.VectorType(INT32, LANES)
_PAIRS = ir.VectorType(_INT16, 2 * LANES)
_BYTES = ir.VectorType(_BYTE, 4 * LANES)
_EIGHT = ir.VectorType(FLOAT, 8)

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
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        items, n_parts, user, lowest, facts, extras, numbers = arguments
        sums = _sums_of_blocks(builder, _dot_of(context, one_instruction), items, n_parts, user, lowest)
        scale, error, norm, slack = (_load(builder, _ahead(builder, facts, 32 * line), _EIGHT) for line in range(4))
        step, error_weight, norm_weight, weight, floor = (
            _load(builder, _ahead(builder, numbers, 4 * number), FLOAT) for number in range(5)
        )
        unit = builder.fmul(scale, broadcast(builder, step, _EIGHT))
        margin = builder.fadd(slack, broadcast(builder, floor, _EIGHT))
        margin = fused(builder, norm, broadcast(builder, norm_weight, _EIGHT), margin)
        margin = fused(builder, error, broadcast(builder, error_weight, _EIGHT), margin)
        weights, bits = broadcast(builder, weight, WIDE), []
        for block in range(N_TOGETHER):
            extra = _load(builder, _ahead(builder, extras, 64 * block), WIDE)
            rest = fused(builder, extra, weights, pick(builder, margin, [block] * LANES))
            units = pick(builder, unit, [block] * LANES)
            bound = fused(builder, builder.sitofp(sums[block], WIDE), units, rest)
            reached = builder.fcmp_ordered(">=", bound, ir.Constant(WIDE, [0.0] * LANES))
            bits.append(builder.zext(builder.bitcast(reached, _INT16), INT64))
        halves = [_joined(builder, bits[:4]), _joined(builder, bits[4:])]
        return context.make_tuple(builder, signature.return_type, halves)

    address, two = types.int64, _tuple_of(types.int64, 2)
    return intrinsic_with_context(generate, two, address, address, address, types.int32, address, address, address)


def _sums_of_blocks(builder: Any, dot: Any, items: Any, n_parts: Any, user: Any, lowest: Any) -> list[Any]:
    """A loop over the parts with one register of sums for each block."""
    registers = [_register_with(builder, broadcast(builder, lowest, _SUMS)) for _ in range(N_TOGETHER)]
    apart = builder.mul(n_parts, ir.Constant(INT64, GROUP_BYTES))
    with cgutils.for_range(builder, n_parts) as loop:
        four_bytes = _load(builder, builder.add(user, builder.mul(loop.index, ir.Constant(INT64, GROUP))), INT32)
        signed = builder.bitcast(broadcast(builder, four_bytes, _SUMS), _BYTES)
        place = builder.add(items, builder.mul(loop.index, ir.Constant(INT64, GROUP_BYTES)))
        for sums in registers:
            builder.store(dot(builder, builder.load(sums), _load(builder, place, _BYTES), signed), sums)
            place = builder.add(place, apart)
    return [builder.load(sums) for sums in registers]


def _joined(builder: Any, bits: Sequence[Any]) -> Any:
    """Four times 16 bits as one number."""
    joined = bits[0]
    for place, some in enumerate(bits[1:], start=1):
        joined = builder.or_(joined, builder.shl(some, ir.Constant(INT64, LANES * place)))
    return joined


def _summing(one_instruction: bool | None) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        item, user, n_parts = arguments
        dot = _dot_of(context, one_instruction)
        sums = _register_with(builder, ir.Constant(_SUMS, [0] * LANES))
        with cgutils.for_range(builder, n_parts) as loop:
            ahead = builder.mul(loop.index, ir.Constant(INT64, GROUP_BYTES))
            unsigned, signed = (_load(builder, builder.add(each, ahead), _BYTES) for each in (item, user))
            builder.store(dot(builder, builder.load(sums), unsigned, signed), sums)
        total = declared(builder, "llvm.vector.reduce.add.v16i32", INT32, [_SUMS])
        return builder.call(total, [builder.load(sums)])

    return intrinsic_with_context(generate, types.int32, *[types.int64] * 3)


def _dot_of(context: Any, one_instruction: bool | None) -> Any:
    has_one = multiplies_bytes(context.codegen()) if one_instruction is None else one_instruction
    return _by_one_instruction if has_one else _by_pairs


def _by_one_instruction(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    dot = declared(builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, [_SUMS, _BYTES, _BYTES])
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
        [builder.sext(pick(builder, pairs, range(start, 2 * LANES, 2)), _SUMS) for pairs in (left, right)]
        for start in (0, 1)
    ]
    return builder.add(*[builder.mul(*half) for half in halves])


blocks_reaching, sum_of_products = _reaching(None), _summing(None)
"""blocks_reaching(items, n_parts, user, lowest, facts, extras, numbers) -> two numbers of 64 bits

A bit for each item of 8 blocks of 16 where

    (lowest + sum) step scale + weight extra + error_weight error + norm_weight norm + slack + floor >= 0

sum: products of its 4 n_parts bytes at items [8, n_parts, 16, 4], 0..255, with those at user [n_parts, 4], -128..127
scale, error, norm, slack: of each block, the first rows at facts [4, 8]   extras [8, 16]
step, error_weight, norm_weight, weight, floor: at numbers

sum_of_products(item, user, n_parts) -> of 64 n_parts bytes at item, 0..255, by those at user, -128..127.
"""
blocks_reaching_by_pairs, sum_of_products_by_pairs = _reaching(False), _summing(False)
"""The same without AVX512-VNNI on any processor, for tests."""


def _lowest_bit(builder: Any, bits: Any) -> Any:
    count = declared(builder, "llvm.cttz.i64", INT64, [INT64, _BIT])
    return builder.call(count, [bits, ir.Constant(_BIT, 1)])


def _add_wide_products(builder: Any, sums: Any, left: Any, right: Any) -> Any:
    return fused(builder, _load(builder, left, WIDE), _load(builder, right, WIDE), sums)


def _add_first_products(builder: Any, sums: Any, left: Any, right: Any, count: Any) -> Any:
    lanes = ir.Constant(_SUMS, list(range(LANES)))
    first = builder.icmp_signed("<", lanes, broadcast(builder, builder.trunc(count, INT32), _SUMS))
    values = [_load_where(builder, address, first) for address in (left, right)]
    return fused(builder, values[0], values[1], sums)


def _ordered_sum(builder: Any, value: Any) -> Any:
    while value.type.count > 2:
        half = value.type.count // 2
        value = builder.fadd(pick(builder, value, range(half)), pick(builder, value, range(half, 2 * half)))
    return builder.fadd(*(builder.extract_element(value, ir.Constant(INT32, lane)) for lane in (0, 1)))


def _element_of(llvm_type: Any, numba_type: Any, size: int) -> Any:
    def emit(builder: Any, address: Any, index: Any) -> Any:
        return _load(builder, builder.add(address, builder.mul(index, ir.Constant(INT64, size))), llvm_type)

    return intrinsic_of(emit, numba_type, types.int64, types.int64)


lowest_bit = intrinsic_of(_lowest_bit, types.int64, types.int64)
"""lowest_bit(bits) -> the number of the lowest bit that is set; some must be."""
n_set = intrinsic_of(
    lambda builder, bits: builder.call(declared(builder, "llvm.ctpop.i64", INT64, [INT64]), [bits]),
    types.int64,
    types.int64,
)
"""n_set(bits) -> how many bits are set."""
add_wide_products = intrinsic_of(_add_wide_products, wide_type, wide_type, types.int64, types.int64)
"""add_wide_products(a, left, right) -> a plus products of the 16 floats at both addresses, each rounded once."""
add_first_products = intrinsic_of(_add_first_products, wide_type, wide_type, *[types.int64] * 3)
"""add_first_products(a, left, right, count): the same for the first `count` floats only; no others are read."""
ordered_sum = intrinsic_of(_ordered_sum, types.float32, wide_type)
"""ordered_sum(a) -> the sum of its lanes, always in the same order: halves are added four times over."""
float_at, row_at = _element_of(FLOAT, types.float32, 4), _element_of(INT32, types.int32, 4)
"""float_at(address, index), row_at(address, index) -> entry `index` of the float32 or int32 array there."""


def _load(builder: Any, address: Any, kind: Any) -> Any:
    load = builder.load(builder.inttoptr(address, kind.as_pointer()))
    load.align = 1
    return load


def _load_where(builder: Any, address: Any, mask: Any) -> Any:
    pointer, bits = builder.inttoptr(address, WIDE.as_pointer()), ir.VectorType(_BIT, LANES)
    load = declared(builder, "llvm.masked.load.v16f32.p0", WIDE, [WIDE.as_pointer(), INT32, bits, WIDE])
    return builder.call(load, [pointer, ir.Constant(INT32, 4), mask, ir.Constant(WIDE, [0.0] * LANES)])


def _ahead(builder: Any, address: Any, n_bytes: int) -> Any:
    return builder.add(address, ir.Constant(INT64, n_bytes))
