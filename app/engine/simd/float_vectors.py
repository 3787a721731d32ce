"""Explicit float32 vectors for Numba: rows of latent factors in registers, 16 numbers wide, and four ratings at a time.

LLVM prefers 256-bit registers on most CPUs that have 512-bit ones, and compiles short rows badly. Written as <16 x
float> the steps of SGD compile to full-width instructions where the CPU has them and to narrower ones elsewhere. Rows,
`Wide` values (16 lanes) and `Four` values (4 lanes) stay in registers across loops, which arrays do not.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba.extending
from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing import templates

from app.engine.simd.lanes import (
    ALIGNMENT,
    FAST_MATH,
    FLOAT,
    FOUR,
    INT32,
    INT64,
    LANE_BYTES,
    LANES,
    WIDE,
    broadcast,
    declared,
    intrinsic_of,
    pick,
    prefetch,
    shuffle,
    with_parameters,
)
from app.engine.simd.lanes import fused as fused_vectors

_numba: Any = numba.extending  # Numba is typed in part
_templates: Any = templates
_primitive: Any = PrimitiveModel

_FOUR_INTS = ir.VectorType(INT32, 4)


def _vector_type(name: str, llvm_type: ir.Type) -> Any:
    """A Numba type of values that LLVM holds as this type."""

    def initialise(self: Any, manager: Any, numba_type: Any) -> None:
        _primitive.__init__(self, manager, numba_type, llvm_type)

    kind: Any = type(f"_{name}Type", (types.Type,), {})
    _numba.register_model(kind)(type("VectorModel", (_primitive,), {"__init__": initialise}))
    return kind(name)


wide_type, four_type = _vector_type("Wide", WIDE), _vector_type("Four", FOUR)
mask_type = _vector_type("Mask", _FOUR_INTS)
"""Four conditions, as comparisons of Fours give them: -1 where one holds, 0 where it does not."""


class RowFunctions(NamedTuple):
    """Functions of a vector of one length as a value: a row of n_columns float32, in registers.

    An address is that of a row in memory, at a 64-byte boundary.
    """

    load: Any
    """load(address) -> row"""
    store: Any
    """store(address, row)"""
    scaled: Any
    """scaled(row, x) -> row times x"""
    dot: Any
    """dot(row, address) -> Wide: sums of products with the row in memory, lane by lane."""
    update: Any
    """update(row, address, step) -> p + step q; in memory is q + step p."""
    update_and_decay_stored: Any
    """update_and_decay_stored(row, address, step, keep_q) -> p + step q; in memory is keep_q q + step p."""
    update_and_decay: Any
    """update_and_decay(row, address, step, keep_q, keep_p) -> keep_p p + step q; in memory is keep_q q + step p."""
    prefetch: Any
    """prefetch(address): requests the row there for writing."""


@functools.cache
def row_functions(n_columns: int) -> RowFunctions:
    """The functions for rows of n_columns, a multiple of 16."""
    code = _RowCode(n_columns // LANES)
    row, wide, number, place = _vector_type(f"Row{n_columns}", code.llvm_type), wide_type, types.float32, types.int64
    return RowFunctions(
        load=intrinsic_of(code.load, row, place),
        store=intrinsic_of(code.store, types.void, place, row),
        scaled=intrinsic_of(code.scaled, row, row, number),
        dot=intrinsic_of(code.dot, wide, row, place),
        update=intrinsic_of(code.update, row, row, place, wide),
        update_and_decay_stored=intrinsic_of(code.update, row, row, place, wide, wide),
        update_and_decay=intrinsic_of(code.update, row, row, place, wide, wide, wide),
        prefetch=intrinsic_of(code.prefetch, types.void, place),
    )


class _RowCode:
    """Emits the code of `RowFunctions`; a row is an array of registers, each visible to the optimiser by itself."""

    def __init__(self, n_parts: int) -> None:
        self.n_parts = n_parts
        self.llvm_type = ir.ArrayType(WIDE, n_parts)

    def load(self, builder: Any, address: Any) -> Any:
        return self._row(builder, self._loaded(builder, address))

    def store(self, builder: Any, address: Any, row: Any) -> None:
        for value, pointer in zip(self._parts(builder, row), self._pointers(builder, address), strict=True):
            _aligned(builder.store(value, pointer))

    def scaled(self, builder: Any, row: Any, x: Any) -> Any:
        factor, parts = broadcast(builder, x, WIDE), self._parts(builder, row)
        return self._row(builder, [builder.fmul(factor, part, flags=FAST_MATH) for part in parts])

    def dot(self, builder: Any, row: Any, address: Any) -> Any:
        total = None
        for p, q in zip(self._parts(builder, row), self._loaded(builder, address), strict=True):
            total = builder.fmul(p, q, flags=FAST_MATH) if total is None else fused_vectors(builder, p, q, total)
        return total

    def update(self, builder: Any, row: Any, address: Any, step: Any, keep_q: Any = None, keep_p: Any = None) -> Any:
        new = []
        for p, pointer in zip(self._parts(builder, row), self._pointers(builder, address), strict=True):
            q = _aligned(builder.load(pointer))
            decayed_p, decayed_q = _product(builder, keep_p, p), _product(builder, keep_q, q)
            _aligned(builder.store(fused_vectors(builder, step, p, decayed_q), pointer))
            new.append(fused_vectors(builder, step, q, decayed_p))
        return self._row(builder, new)

    def prefetch(self, builder: Any, address: Any) -> None:
        for pointer in self._pointers(builder, address):
            prefetch(builder, pointer, for_writing=True)

    def _parts(self, builder: Any, row: Any) -> list[Any]:
        return [builder.extract_value(row, part) for part in range(self.n_parts)]

    def _row(self, builder: Any, parts: Sequence[Any]) -> Any:
        row = ir.Constant(self.llvm_type, ir.Undefined)
        for number, part in enumerate(parts):
            row = builder.insert_value(row, part, number)
        return row

    def _pointers(self, builder: Any, address: Any) -> list[Any]:
        offsets = [ir.Constant(INT64, part * LANE_BYTES) for part in range(self.n_parts)]
        return [builder.inttoptr(builder.add(address, offset), WIDE.as_pointer()) for offset in offsets]

    def _loaded(self, builder: Any, address: Any) -> list[Any]:
        return [_aligned(builder.load(pointer)) for pointer in self._pointers(builder, address)]


def _product(builder: Any, factor: Any, value: Any) -> Any:
    return value if factor is None else builder.fmul(factor, value, flags=FAST_MATH)


def _aligned(instruction: Any) -> Any:
    instruction.align = ALIGNMENT
    return instruction


def _sum_of_lanes(builder: Any, wide: Any) -> Any:
    reduce = declared(builder, "llvm.vector.reduce.fadd.v16f32", FLOAT, [FLOAT, WIDE])
    return builder.call(reduce, [ir.Constant(FLOAT, -0.0), wide], fastmath=FAST_MATH)


def _sums_of_four(builder: Any, *wides: Any) -> Any:
    a, b, c, d = (_folded(builder, wide) for wide in wides)  # 8 lanes each
    ab = _added(builder, shuffle(builder, a, b, _LOW_PAIRS), shuffle(builder, a, b, _HIGH_PAIRS))
    cd = _added(builder, shuffle(builder, c, d, _LOW_PAIRS), shuffle(builder, c, d, _HIGH_PAIRS))
    return _folded(
        builder, _added(builder, shuffle(builder, ab, cd, _LOW_QUADS), shuffle(builder, ab, cd, _HIGH_QUADS))
    )


_LOW_PAIRS, _HIGH_PAIRS = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
_LOW_QUADS, _HIGH_QUADS = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)


def _added(builder: Any, left: Any, right: Any) -> Any:
    return builder.fadd(left, right, flags=FAST_MATH)


def _folded(builder: Any, vector: Any) -> Any:
    """The lower half plus the upper half."""
    half = vector.type.count // 2
    return _added(builder, pick(builder, vector, range(half)), pick(builder, vector, range(half, 2 * half)))


def _four_of(builder: Any, *scalars: Any) -> Any:
    value = ir.Constant(FOUR, ir.Undefined)
    for lane, scalar in enumerate(scalars):
        value = builder.insert_element(value, scalar, ir.Constant(INT32, lane))
    return value


def _four_load(builder: Any, address: Any) -> Any:
    load = builder.load(builder.inttoptr(address, FOUR.as_pointer()))
    load.align = 4
    return load


def _picking(lanes: Sequence[int], result: Any) -> Any:
    return intrinsic_of(lambda builder, four: pick(builder, four, lanes), result, four_type)


def _extracting(lane: int) -> Any:
    number = ir.Constant(INT32, lane)
    return intrinsic_of(lambda builder, four: builder.extract_element(four, number), types.float32, four_type)


wide_zero = intrinsic_of(lambda _builder: ir.Constant(WIDE, [0.0] * LANES), wide_type)
"""wide_zero() -> zeros."""
wide_of = intrinsic_of(lambda builder, x: broadcast(builder, x, WIDE), wide_type, types.float32)
"""wide_of(x) -> x in every lane."""
wide_sum = intrinsic_of(_sum_of_lanes, types.float32, wide_type)
"""wide_sum(a) -> the sum of its lanes."""
sums_of_four = intrinsic_of(_sums_of_four, four_type, *[wide_type] * 4)
"""sums_of_four(a, b, c, d) -> Four of their sums: half the shuffles that four separate sums take."""
four_of = intrinsic_of(_four_of, four_type, *[types.float32] * 4)
"""four_of(a, b, c, d) -> these numbers as a Four."""
four_load = intrinsic_of(_four_load, four_type, types.int64)
"""four_load(address) -> the 4 numbers there, at any multiple of 4 bytes."""
four_spread = intrinsic_of(lambda builder, x: broadcast(builder, x, FOUR), four_type, types.float32)
"""four_spread(x) -> x in every lane."""
four_low, four_high = _picking((0, 1, 0, 1), four_type), _picking((2, 3, 2, 3), four_type)
"""four_low(four), four_high(four) -> its first two numbers, or its last two, twice."""
lane_0, lane_1, lane_2, lane_3 = map(_extracting, range(4))
"""lane_n(four) -> its number n."""
wide_lane_0, wide_lane_1, wide_lane_2, wide_lane_3 = (_picking([lane] * LANES, wide_type) for lane in range(4))
"""wide_lane_n(four) -> its number n in every lane of a Wide."""


def _define(
    symbol: Callable[..., Any], result: Any, cases: Sequence[tuple[Any, ...]], emit: Callable[..., Any]
) -> None:
    """Defines an operator of Python between these types: emit(builder, *values) -> result, with numbers as Fours."""

    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *_as_fours(builder, signature.args, arguments))

    signatures = [_templates.signature(result, *case) for case in cases]
    template = type(f"{symbol.__name__}_of_vectors", (_templates.ConcreteTemplate,), {"cases": signatures})
    _templates.infer_global(symbol)(template)
    for case in cases:
        _numba.lower_builtin(symbol, *case)(generate)


def _as_fours(builder: Any, argument_types: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return [
        broadcast(builder, value, FOUR) if kind == types.float32 else value
        for kind, value in zip(argument_types, arguments, strict=True)
    ]


def _arithmetic(instruction: str, builder: Any, left: Any, right: Any) -> Any:
    """In the order written."""
    return getattr(builder, instruction)(left, right, flags=("contract",))


def _comparison(sign: str, builder: Any, left: Any, right: Any) -> Any:
    compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
    return builder.sext(compare(sign, left, right), _FOUR_INTS)


_FOUR_WITH_FOUR_OR_NUMBER = [(four_type, four_type), (four_type, types.float32), (types.float32, four_type)]
_ARITHMETIC = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}
_COMPARISONS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
for _symbol, _instruction in _ARITHMETIC.items():
    _define(_symbol, four_type, _FOUR_WITH_FOUR_OR_NUMBER, functools.partial(_arithmetic, _instruction))
for _symbol, _sign in zip(_COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True):
    _define(_symbol, mask_type, _FOUR_WITH_FOUR_OR_NUMBER, functools.partial(_comparison, _sign))
_define(operator.and_, mask_type, [(mask_type, mask_type)], lambda builder, a, b: builder.and_(a, b))
_define(operator.or_, mask_type, [(mask_type, mask_type)], lambda builder, a, b: builder.or_(a, b))
_define(operator.neg, four_type, [(four_type,)], lambda builder, four: builder.fneg(four))


def _elementwise(n_parameters: int, emit: Callable[..., Any]) -> Any:
    """A function of float32 numbers and Fours: its result is a Four if one of its arguments is.

    emit(builder, values, is_four) -> the result
    """

    def typed(arguments: Sequence[Any]) -> Any:
        is_four = four_type in arguments
        result = four_type if is_four else types.float32

        def generate(_context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return emit(builder, _as_fours(builder, signature.args, values) if is_four else values, is_four)

        return result(*[four_type if kind == four_type else types.float32 for kind in arguments]), generate

    return with_parameters(n_parameters, typed)


def _llvm_function(n_parameters: int, name: str) -> Any:
    """LLVM's function of this name, of numbers or Fours."""

    def emit(builder: Any, values: Sequence[Any], is_four: bool) -> Any:
        kind, suffix = (FOUR, "v4f32") if is_four else (FLOAT, "f32")
        return builder.call(declared(builder, f"llvm.{name}.{suffix}", kind, [kind] * n_parameters), values)

    return _elementwise(n_parameters, emit)


def _bits_type(is_four: bool) -> Any:
    return _FOUR_INTS if is_four else INT32


def _constant_bits(number: int, is_four: bool) -> Any:
    return ir.Constant(_bits_type(is_four), [number] * 4 if is_four else number)


def _two_to_the(builder: Any, values: list[Any], is_four: bool) -> Any:
    kind, suffix = (FOUR, "v4i32.v4f32") if is_four else (FLOAT, "i32.f32")
    whole = builder.call(declared(builder, f"llvm.fptosi.sat.{suffix}", _bits_type(is_four), [kind]), values)
    exponent = builder.add(whole, _constant_bits(127, is_four))
    return builder.bitcast(builder.shl(exponent, _constant_bits(23, is_four)), kind)


def _exponent(builder: Any, bits: Any, is_four: bool) -> Any:
    root_of_a_half = _constant_bits(0x3F3504F3, is_four)
    return builder.ashr(builder.sub(bits, root_of_a_half), _constant_bits(23, is_four))


def _exponent_of(builder: Any, values: list[Any], is_four: bool) -> Any:
    bits = builder.bitcast(values[0], _bits_type(is_four))
    return builder.sitofp(_exponent(builder, bits, is_four), FOUR if is_four else FLOAT)


def _mantissa_of(builder: Any, values: list[Any], is_four: bool) -> Any:
    bits = builder.bitcast(values[0], _bits_type(is_four))
    n = builder.shl(_exponent(builder, bits, is_four), _constant_bits(23, is_four))
    return builder.bitcast(builder.sub(bits, n), FOUR if is_four else FLOAT)


fused = _llvm_function(3, "fma")
"""fused(a, b, c) -> a b + c, rounded once."""
absolute = _llvm_function(1, "fabs")
"""absolute(u) -> |u|"""
root = _llvm_function(1, "sqrt")
"""root(u) -> its square root; NaN below zero."""
nearest = _llvm_function(1, "rint")
"""nearest(u) -> the nearest whole number."""
two_to_the = _elementwise(1, _two_to_the)
"""two_to_the(n) -> 2^n for whole n from -126 to 127; 1 for NaN."""
exponent_of = _elementwise(1, _exponent_of)
"""exponent_of(u) -> whole n with u = 2^n m, m from sqrt(1/2) to sqrt(2); for positive normal numbers."""
mantissa_of = _elementwise(1, _mantissa_of)
"""mantissa_of(u) -> m of `exponent_of`."""


def _select(arguments: Sequence[Any]) -> Any:
    condition, yes, no = arguments
    is_mask = condition == mask_type
    is_four = is_mask or four_type in (yes, no)
    choices = [four_type if kind == four_type else types.float32 for kind in (yes, no)]

    def generate(_context: Any, builder: Any, signature: Any, values: Any) -> Any:
        chosen, *either = values
        if is_four:
            either = _as_fours(builder, signature.args[1:], either)
        if is_mask:
            chosen = builder.icmp_signed("!=", chosen, ir.Constant(_FOUR_INTS, [0] * 4))
        return builder.select(chosen, *either)

    return (four_type if is_four else types.float32)(mask_type if is_mask else types.boolean, *choices), generate


select = with_parameters(3, _select)
"""select(condition, a, b): both are computed, one is taken; lane by lane where the condition is a Mask."""
