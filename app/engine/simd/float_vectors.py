"""Explicit float32 vectors for Numba: rows of latent factors in registers, 16 numbers wide, and four ratings at a time.

LLVM prefers 256-bit registers on most CPUs that have 512-bit ones, and spends them badly on short rows. Written as
<16 x float> the steps of SGD compile to full-width instructions where the CPU has them and to legal narrower ones where
it has not. Rows, `Wide` values (16 lanes) and `Four` values (4 lanes) live in registers across loops, which arrays do
not.
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

from app.engine.simd.lanes import ALIGNMENT, FAST_MATH, LANE_BYTES, LANES, prefetch_for_writing

# Numba is typed in part; what these make is called from kernels only, with other arguments than it is written with.
_intrinsic: Any = numba.extending.intrinsic
_lower: Any = numba.extending.lower_builtin
_register: Any = numba.extending.register_model
_signature: Any = templates.signature
_infer: Any = templates.infer_global
_primitive: Any = PrimitiveModel

_FLOAT = ir.FloatType()
_WIDE = ir.VectorType(_FLOAT, LANES)
_FOUR = ir.VectorType(_FLOAT, 4)
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class _VectorType(types.Type):
    """A Numba type for a register of floats."""

    def __init__(self, name: str) -> None:
        initialise: Any = super().__init__
        initialise(name)


class _WideType(_VectorType):
    pass


class _FourType(_VectorType):
    pass


wide_type, four_type = _WideType("Wide"), _FourType("Four")


def _kept_as(llvm_type: ir.VectorType) -> Any:
    def initialise(self: Any, manager: Any, numba_type: Any) -> None:
        _primitive.__init__(self, manager, numba_type, llvm_type)

    return type("VectorModel", (_primitive,), {"__init__": initialise})


_register(_WideType)(_kept_as(_WIDE))
_register(_FourType)(_kept_as(_FOUR))


class Rows(NamedTuple):
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
    pull: Any
    """pull(row, address, step) -> p + step q; in memory is q + step p."""
    pull_and_shrink: Any
    """pull_and_shrink(row, address, step, keep_p, keep_q) -> keep_p p + step q; in memory is keep_q q + step p."""
    shrink_there: Any
    """shrink_there(row, address, step, keep_q) -> p + step q; in memory is keep_q q + step p."""
    prefetch: Any
    """prefetch(address): the row there is on its way to the nearest cache, for writing."""


@functools.cache
def rows_of(n_columns: int) -> Rows:
    """The functions for rows of n_columns, a multiple of 16."""
    code = _RowCode(n_columns // LANES)
    row, wide, number, place = _row_type(code), wide_type, types.float32, types.int64
    return Rows(
        load=_function(code.load, row, place),
        store=_function(code.store, types.void, place, row),
        scaled=_function(code.scaled, row, row, number),
        dot=_function(code.dot, wide, row, place),
        pull=_function(code.pull, row, row, place, wide),
        pull_and_shrink=_function(code.pull_and_shrink, row, row, place, wide, wide, wide),
        shrink_there=_function(code.shrink_there, row, row, place, wide, wide),
        prefetch=_function(code.prefetch, types.void, place),
    )


def _function(emit: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """A function for kernels from one that emits its code: emit(builder, *values) -> the result."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        value = emit(builder, *values)
        return context.get_dummy_value() if result is types.void else value

    typed = result(*arguments), generate
    with_parameters: dict[int, Callable[..., Any]] = {  # Numba counts them
        1: lambda _typing, _a: typed,
        2: lambda _typing, _a, _b: typed,
        3: lambda _typing, _a, _b, _c: typed,
        4: lambda _typing, _a, _b, _c, _d: typed,
        5: lambda _typing, _a, _b, _c, _d, _e: typed,
    }
    return _intrinsic(with_parameters[len(arguments)])


class _RowCode:
    """What `Rows` emit; a row is an array of registers, each of which the optimiser takes by itself."""

    def __init__(self, n_parts: int) -> None:
        self.n_parts = n_parts
        self.llvm_type = ir.ArrayType(_WIDE, n_parts)

    def load(self, builder: Any, address: Any) -> Any:
        return self._row(builder, self._there(builder, address))

    def store(self, builder: Any, address: Any, row: Any) -> None:
        for value, place in zip(self._parts(builder, row), self._places(builder, address), strict=True):
            _aligned(builder.store(value, place))

    def scaled(self, builder: Any, row: Any, x: Any) -> Any:
        everywhere = _shuffle(builder, _single(builder, x, _WIDE), [0] * LANES)
        parts = self._parts(builder, row)
        return self._row(builder, [builder.fmul(everywhere, part, flags=FAST_MATH) for part in parts])

    def dot(self, builder: Any, row: Any, address: Any) -> Any:
        total = None
        for p, q in zip(self._parts(builder, row), self._there(builder, address), strict=True):
            total = builder.fmul(p, q, flags=FAST_MATH) if total is None else _fused(builder, p, q, total)
        return total

    def pull_and_shrink(self, builder: Any, row: Any, address: Any, step: Any, keep_p: Any, keep_q: Any) -> Any:
        new = []
        for p, place in zip(self._parts(builder, row), self._places(builder, address), strict=True):
            q = _aligned(builder.load(place))
            p_kept, q_kept = _product(builder, keep_p, p), _product(builder, keep_q, q)
            _aligned(builder.store(_fused(builder, step, p, q_kept), place))
            new.append(_fused(builder, step, q, p_kept))
        return self._row(builder, new)

    def shrink_there(self, builder: Any, row: Any, address: Any, step: Any, keep_q: Any) -> Any:
        return self.pull_and_shrink(builder, row, address, step, None, keep_q)

    def pull(self, builder: Any, row: Any, address: Any, step: Any) -> Any:
        return self.pull_and_shrink(builder, row, address, step, None, None)

    def prefetch(self, builder: Any, address: Any) -> None:
        for place in self._places(builder, address):
            prefetch_for_writing(builder, place)

    def _parts(self, builder: Any, row: Any) -> list[Any]:
        return [builder.extract_value(row, part) for part in range(self.n_parts)]

    def _row(self, builder: Any, parts: Sequence[Any]) -> Any:
        row = ir.Constant(self.llvm_type, ir.Undefined)
        for place, part in enumerate(parts):
            row = builder.insert_value(row, part, place)
        return row

    def _places(self, builder: Any, address: Any) -> list[Any]:
        offsets = [ir.Constant(_INT64, part * LANE_BYTES) for part in range(self.n_parts)]
        return [builder.inttoptr(builder.add(address, offset), _WIDE.as_pointer()) for offset in offsets]

    def _there(self, builder: Any, address: Any) -> list[Any]:
        return [_aligned(builder.load(place)) for place in self._places(builder, address)]


def _product(builder: Any, factor: Any, value: Any) -> Any:
    return value if factor is None else builder.fmul(factor, value, flags=FAST_MATH)


def _row_type(code: _RowCode) -> Any:
    """A Numba type for rows of this length."""
    kind = type("_RowType", (_VectorType,), {})
    _register(kind)(_kept_as(code.llvm_type))
    return kind(f"Row{code.n_parts * LANES}")


def _fused(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    return builder.call(_declared(builder, "llvm.fma.v16f32", _WIDE, [_WIDE] * 3), [left, right, addend])


@_intrinsic
def wide_of(_typing: Any, _scalar: Any) -> Any:
    """wide_of(x) -> x in every lane."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _shuffle(builder, _single(builder, arguments[0], _WIDE), [0] * LANES)

    return wide_type(types.float32), generate


@_intrinsic
def wide_sum(_typing: Any, _value: Any) -> Any:
    """wide_sum(a) -> the sum of its lanes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        reduce = _declared(builder, "llvm.vector.reduce.fadd.v16f32", _FLOAT, [_FLOAT, _WIDE])
        return builder.call(reduce, [ir.Constant(_FLOAT, -0.0), arguments[0]], fastmath=FAST_MATH)

    return types.float32(wide_type), generate


@_intrinsic
def wide_zero(_typing: Any) -> Any:
    """wide_zero() -> zeros."""
    return wide_type(), lambda *_: ir.Constant(_WIDE, [0.0] * LANES)


@_intrinsic
def sums_of_four(_typing: Any, _a: Any, _b: Any, _c: Any, _d: Any) -> Any:
    """sums_of_four(a, b, c, d) -> Four of their sums: half the shuffles that four sums by themselves take."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        a, b, c, d = (_folded(builder, wide) for wide in arguments)  # 8 lanes each
        ab = _added(builder, _shuffle2(builder, a, b, _LOW_PAIRS), _shuffle2(builder, a, b, _HIGH_PAIRS))
        cd = _added(builder, _shuffle2(builder, c, d, _LOW_PAIRS), _shuffle2(builder, c, d, _HIGH_PAIRS))
        abcd = _added(builder, _shuffle2(builder, ab, cd, _LOW_QUADS), _shuffle2(builder, ab, cd, _HIGH_QUADS))
        return _folded(builder, abcd)

    return four_type(wide_type, wide_type, wide_type, wide_type), generate


_LOW_PAIRS, _HIGH_PAIRS = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
_LOW_QUADS, _HIGH_QUADS = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)


@_intrinsic
def four_of(_typing: Any, _a: Any, _b: Any, _c: Any, _d: Any) -> Any:
    """four_of(a, b, c, d) -> these numbers as a Four."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value = ir.Constant(_FOUR, ir.Undefined)
        for lane, scalar in enumerate(arguments):
            value = builder.insert_element(value, scalar, ir.Constant(_INT32, lane))
        return value

    return four_type(*[types.float32] * 4), generate


@_intrinsic
def four_load(_typing: Any, _address: Any) -> Any:
    """four_load(address) -> the 4 numbers there, at any multiple of 4 bytes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        load = builder.load(builder.inttoptr(arguments[0], _FOUR.as_pointer()))
        load.align = 4
        return load

    return four_type(types.int64), generate


@_intrinsic
def four_spread(_typing: Any, _scalar: Any) -> Any:
    """four_spread(x) -> x in every lane."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _shuffle(builder, _single(builder, arguments[0], _FOUR), [0] * 4)

    return four_type(types.float32), generate


def _lane(number: int) -> Any:
    @_intrinsic
    def lane(_typing: Any, _four: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.extract_element(arguments[0], ir.Constant(_INT32, number))

        return types.float32(four_type), generate

    return lane


def _wide_lane(number: int) -> Any:
    @_intrinsic
    def wide_lane(_typing: Any, _four: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return _shuffle(builder, arguments[0], [number] * LANES)

        return wide_type(four_type), generate

    return wide_lane


def _halves(lanes: Sequence[int]) -> Any:
    @_intrinsic
    def half(_typing: Any, _four: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return _shuffle(builder, arguments[0], lanes)

        return four_type(four_type), generate

    return half


four_low, four_high = _halves((0, 1, 0, 1)), _halves((2, 3, 2, 3))
"""four_low(four), four_high(four) -> its first two numbers, or its last two, twice."""
lane_0, lane_1, lane_2, lane_3 = map(_lane, range(4))
"""lane_n(four) -> its number n."""
wide_lane_0, wide_lane_1, wide_lane_2, wide_lane_3 = map(_wide_lane, range(4))
"""wide_lane_n(four) -> its number n in every lane of a Wide."""


def _define(
    symbol: Callable[..., Any], result: Any, cases: Sequence[tuple[Any, ...]], generate: Callable[..., Any]
) -> None:
    """What an operator of Python means between these types."""
    signatures = [_signature(result, *case) for case in cases]
    _infer(symbol)(type(f"{symbol.__name__}_of_vectors", (templates.ConcreteTemplate,), {"cases": signatures}))
    for case in cases:
        _lower(symbol, *case)(generate)


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    """A Four with a Four, or with one number for all of its lanes, as in the text of a loss; in the order written."""

    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*_as_fours(builder, signature.args, arguments), flags=("contract",))

    number = types.float32
    _define(symbol, four_type, [(four_type, four_type), (four_type, number), (number, four_type)], generate)


def _as_fours(builder: Any, argument_types: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    return [
        value if kind == four_type else _shuffle(builder, _single(builder, value, _FOUR), [0] * 4)
        for kind, value in zip(argument_types, arguments, strict=True)
    ]


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _instruction)


_define(
    operator.neg,
    four_type,
    [(four_type,)],
    lambda _context, builder, _signature, arguments: builder.fneg(*arguments),
)


def _declared(builder: Any, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _aligned(instruction: Any) -> Any:
    instruction.align = ALIGNMENT
    return instruction


def _single(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    return builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT32, 0))


def _shuffle2(builder: Any, left: Any, right: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes)))


def _shuffle(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    return _shuffle2(builder, vector, vector, lanes)


def _added(builder: Any, left: Any, right: Any) -> Any:
    return builder.fadd(left, right, flags=FAST_MATH)


def _folded(builder: Any, vector: Any) -> Any:
    """The lower half plus the upper half."""
    half = vector.type.count // 2
    return _added(builder, _shuffle(builder, vector, range(half)), _shuffle(builder, vector, range(half, 2 * half)))


class _MaskType(_VectorType):
    pass


mask_type = _MaskType("Mask")
"""Four conditions, as comparisons of Fours give them: -1 where one holds, 0 where it does not."""
_FOUR_INTS = ir.VectorType(_INT32, 4)
_register(_MaskType)(_kept_as(_FOUR_INTS))


def _define_comparison(symbol: Callable[..., Any], sign: str) -> None:
    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        return builder.sext(compare(sign, *_as_fours(builder, signature.args, arguments)), _FOUR_INTS)

    number = types.float32
    _define(symbol, mask_type, [(four_type, four_type), (four_type, number), (number, four_type)], generate)


def _define_connective(symbol: Callable[..., Any], instruction: str) -> None:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)

    _define(symbol, mask_type, [(mask_type, mask_type)], generate)


for _symbol, _sign in (
    *((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")),
    *((operator.eq, "=="), (operator.ne, "!=")),
):
    _define_comparison(_symbol, _sign)
_define_connective(operator.and_, "and_")
_define_connective(operator.or_, "or_")


def _of_number_or_four(generate: Callable[..., Any]) -> Any:
    """A function of float32 numbers and Fours: a Four as soon as one of its arguments is.

    generate(builder, arguments, is_four) -> the result
    """

    def typed(arguments: Sequence[Any]) -> Any:
        is_four = four_type in arguments
        result = four_type if is_four else types.float32

        def code(_context: Any, builder: Any, signature: Any, values: Any) -> Any:
            same = _as_fours(builder, signature.args, values) if is_four else list(values)
            return generate(builder, same, is_four)

        return result(*[four_type if kind == four_type else types.float32 for kind in arguments]), code

    return typed


def _one_or_four(name: str, builder: Any, arguments: Sequence[Any], is_four: bool) -> Any:
    """LLVM's function of this name, of one or of four numbers."""
    kind, suffix = (_FOUR, "v4f32") if is_four else (_FLOAT, "f32")
    return builder.call(_declared(builder, f"llvm.{name}.{suffix}", kind, [kind] * len(arguments)), arguments)


def _bits_type(is_four: bool) -> Any:
    return _FOUR_INTS if is_four else _INT32


def _constant_bits(number: int, is_four: bool) -> Any:
    return ir.Constant(_FOUR_INTS, [number] * 4) if is_four else ir.Constant(_INT32, number)


@_intrinsic
def fused(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """fused(a, b, c) -> a b + c, rounded once."""
    return _of_number_or_four(lambda builder, values, is_four: _one_or_four("fma", builder, values, is_four))((a, b, c))


@_intrinsic
def absolute(_typing: Any, u: Any) -> Any:
    """absolute(u) -> |u|"""
    return _of_number_or_four(lambda builder, values, is_four: _one_or_four("fabs", builder, values, is_four))((u,))


@_intrinsic
def root(_typing: Any, u: Any) -> Any:
    """root(u) -> its square root; NaN below zero."""
    return _of_number_or_four(lambda builder, values, is_four: _one_or_four("sqrt", builder, values, is_four))((u,))


@_intrinsic
def nearest(_typing: Any, u: Any) -> Any:
    """nearest(u) -> the nearest whole number."""
    return _of_number_or_four(lambda builder, values, is_four: _one_or_four("rint", builder, values, is_four))((u,))


@_intrinsic
def two_to_the(_typing: Any, n: Any) -> Any:
    """two_to_the(n) -> 2^n for whole n from -126 to 127; 1 for NaN."""

    def generate(builder: Any, values: list[Any], is_four: bool) -> Any:
        kind, suffix = (_FOUR, "v4i32.v4f32") if is_four else (_FLOAT, "i32.f32")
        bits = _bits_type(is_four)
        whole = builder.call(_declared(builder, f"llvm.fptosi.sat.{suffix}", bits, [kind]), values)
        exponent = builder.add(whole, _constant_bits(127, is_four))
        return builder.bitcast(builder.shl(exponent, _constant_bits(23, is_four)), kind)

    return _of_number_or_four(generate)((n,))


_ROOT_OF_A_HALF = 0x3F3504F3


@_intrinsic
def exponent_of(_typing: Any, u: Any) -> Any:
    """exponent_of(u) -> whole n with u = 2^n m, m from sqrt(1/2) to sqrt(2); for positive normal numbers."""

    def generate(builder: Any, values: list[Any], is_four: bool) -> Any:
        bits = builder.bitcast(values[0], _bits_type(is_four))
        n = _exponent(builder, bits, is_four)
        return builder.sitofp(n, _FOUR if is_four else _FLOAT)

    return _of_number_or_four(generate)((u,))


@_intrinsic
def mantissa_of(_typing: Any, u: Any) -> Any:
    """mantissa_of(u) -> m of `exponent_of`."""

    def generate(builder: Any, values: list[Any], is_four: bool) -> Any:
        bits = builder.bitcast(values[0], _bits_type(is_four))
        n = builder.shl(_exponent(builder, bits, is_four), _constant_bits(23, is_four))
        return builder.bitcast(builder.sub(bits, n), _FOUR if is_four else _FLOAT)

    return _of_number_or_four(generate)((u,))


def _exponent(builder: Any, bits: Any, is_four: bool) -> Any:
    shifted = builder.sub(bits, _constant_bits(_ROOT_OF_A_HALF, is_four))
    return builder.ashr(shifted, _constant_bits(23, is_four))


@_intrinsic
def select(_typing: Any, condition: Any, yes: Any, no: Any) -> Any:
    """select(condition, a, b): both are computed, one is taken; lane by lane where the condition is a Mask."""
    is_mask = condition == mask_type
    is_four = is_mask or four_type in (yes, no)
    choices = [four_type if kind == four_type else types.float32 for kind in (yes, no)]

    def generate(_context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chosen, *values = arguments
        if is_four:
            values = _as_fours(builder, signature.args[1:], values)
        if is_mask:
            chosen = builder.icmp_signed("!=", chosen, ir.Constant(_FOUR_INTS, [0] * 4))
        return builder.select(chosen, *values)

    return (four_type if is_four else types.float32)(mask_type if is_mask else types.boolean, *choices), generate
