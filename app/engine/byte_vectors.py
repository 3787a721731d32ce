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
from numba.core.datamodel.models import PrimitiveModel

from app.engine.lanes import LANES
from app.engine.vectors import wide_type

# Numba is typed in part; what these make is called from kernels only, with other arguments than it is written with.
_intrinsic: Any = numba.extending.intrinsic
_register: Any = numba.extending.register_model
_primitive: Any = PrimitiveModel

_BIT, _BYTE, _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()
_WIDE = ir.VectorType(_FLOAT, LANES)
_SUMS = ir.VectorType(_INT32, LANES)
_PAIRS = ir.VectorType(_INT16, 2 * LANES)
_BYTES = ir.VectorType(_BYTE, 4 * LANES)

GROUP = 4
"""Bytes whose products are added up in one step."""
GROUP_BYTES = GROUP * LANES


class _SumsType(types.Type):
    """A Numba type for 16 whole numbers in a register."""

    def __init__(self) -> None:
        initialise: Any = super().__init__
        initialise("Sums")


sums_type = _SumsType()


@_register(_SumsType)
class _SumsModel(PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        _primitive.__init__(self, manager, numba_type, _SUMS)


def multiplies_bytes(codegen: Any) -> bool:
    """Whether kernels of this Numba code generator may use AVX512-VNNI; part of the key of Numba's cache."""
    _, _, features = codegen.magic_tuple()
    return "+avx512vnni" in features.split(",")


@_intrinsic
def sums_zero(_typing: Any) -> Any:
    """sums_zero() -> zeros."""
    return sums_type(), lambda *_: ir.Constant(_SUMS, [0] * LANES)


def _adder(one_instruction: bool | None) -> Any:
    @_intrinsic
    def add_products(_typing: Any, _sums: Any, _items: Any, _user: Any) -> Any:
        """add_products(sums, items, user): to each lane the products of its 4 bytes at items, 0..255, with the 4 bytes
        at user, -128..127."""

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            sums, items, user = arguments
            unsigned = _load(builder, items, _BYTES)
            signed = builder.bitcast(_spread(builder, _load(builder, user, _INT32), _SUMS), _BYTES)
            has_one = multiplies_bytes(context.codegen()) if one_instruction is None else one_instruction
            return (_by_one_instruction if has_one else _by_pairs)(builder, sums, unsigned, signed)

        return sums_type(sums_type, types.int64, types.int64), generate

    return add_products


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


add_products = _adder(None)
add_products_by_pairs = _adder(False)
"""What `add_products` is without AVX512-VNNI, on any processor, so that tests can see it."""


@_intrinsic
def reaching(
    _typing: Any, _sums: Any, _offset: Any, _step: Any, _facts: Any, _beyond: Any, _lane: Any, _weight: Any, _floor: Any
) -> Any:
    """reaching(sums, offset, step, facts, beyond, lane, weight, floor) -> a bit for each lane where

        (sums - offset) step scale + beyond rest + weight extra + floor >= 0

    scale, rest and extra are lines of 16 floats: the first and the second at facts, and the one numbered `lane`.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        sums, offset, step, facts, beyond, lane, weight, floor = arguments
        scale, rest = (_load(builder, _ahead(builder, facts, line * 64), _WIDE) for line in (0, 1))
        place = builder.add(facts, builder.mul(lane, ir.Constant(_INT64, 64)))
        extra = _load(builder, place, _WIDE)
        product = builder.sitofp(builder.sub(sums, _spread(builder, offset, _SUMS)), _WIDE)
        unit = builder.fmul(scale, _spread(builder, step, _WIDE))
        apart = _fused(builder, extra, _spread(builder, weight, _WIDE), _spread(builder, floor, _WIDE))
        bound = _fused(builder, product, unit, _fused(builder, rest, _spread(builder, beyond, _WIDE), apart))
        bits = builder.fcmp_ordered(">=", bound, ir.Constant(_WIDE, [0.0] * LANES))
        return builder.zext(builder.bitcast(bits, _INT16), _INT64)

    number, place = types.float32, types.int64
    return types.int64(sums_type, types.int32, number, place, number, place, number, number), generate


@_intrinsic
def lowest_bit(_typing: Any, _bits: Any) -> Any:
    """lowest_bit(bits) -> the number of the lowest bit that is set; some must be."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        count = _declared(builder, "llvm.cttz.i64", _INT64, [_INT64, _BIT])
        return builder.call(count, [arguments[0], ir.Constant(_BIT, 1)])

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
    return builder.call(_declared(builder, "llvm.fma.v16f32", _WIDE, [_WIDE] * 3), [left, right, addend])


def _declared(builder: Any, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
