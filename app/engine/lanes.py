"""Explicit 16-lane float32 vectors for Numba: the two steps of SGD whose speed decides the speed of training.

LLVM prefers 256-bit registers on most CPUs that have 512-bit ones, and spends them badly on short rows. Written as
<16 x float> these steps compile to full-width instructions where the CPU has them and to legal narrower ones where it
has not. A row is `16 * n` float32 at a 64-byte boundary, named by its address.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from app.engine.arrays import Matrix32

LANES = 16
ALIGNMENT = 64
_intrinsic: Any = intrinsic  # what it makes is called from kernels only, with other arguments than it is written with
FAST_MATH = ("reassoc", "contract", "nsz", "arcp", "afn")
"""Reordering and fusing, but NaN and infinity keep their meaning: with them gone a divergence check sees nothing."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


def padded(n_factors: int) -> int:
    """The next multiple of 16: the length of a row in memory."""
    return -(-n_factors // LANES) * LANES


def aligned_matrix(n_rows: int, n_columns: int) -> Matrix32:
    """Zeros [n_rows, n_columns] that start at a 64-byte boundary."""
    room = np.zeros(n_rows * n_columns + LANES, np.float32)
    skip = (-room.ctypes.data % ALIGNMENT) // room.itemsize
    return room[skip : skip + n_rows * n_columns].reshape(n_rows, n_columns)


def make_dot(n_columns: int) -> Callable[[int, int], float]:
    """dot(p_address, q_address) -> p.q over n_columns, a multiple of 16."""

    @_intrinsic
    def dot(_typing: Any, _p_address: Any, _q_address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            ps, qs = (_load_row(builder, address, n_columns) for address in arguments)
            return _sum(builder, _multiply_accumulate(builder, ps, qs))

        return types.float32(types.int64, types.int64), generate

    return dot  # type: ignore[no-any-return]


def make_pull(n_columns: int) -> Callable[[int, int, float, float, float], None]:
    """pull(p_address, q_address, step, keep_p, keep_q): p, q become keep_p p + step q, keep_q q + step p."""

    @_intrinsic
    def pull(_typing: Any, _p_address: Any, _q_address: Any, _step: Any, _keep_p: Any, _keep_q: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            p_at, q_at = arguments[:2]
            step, keep_p, keep_q = (_spread(builder, scalar) for scalar in arguments[2:])
            ps, qs = (_load_row(builder, address, n_columns) for address in (p_at, q_at))
            for lane, (p, q) in enumerate(zip(ps, qs, strict=True)):
                _store(builder, p_at, lane, _fma(builder, step, q, builder.fmul(keep_p, p, flags=FAST_MATH)))
                _store(builder, q_at, lane, _fma(builder, step, p, builder.fmul(keep_q, q, flags=FAST_MATH)))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32, types.float32, types.float32), generate

    return pull  # type: ignore[no-any-return]


def make_prefetch(n_columns: int) -> Callable[[int], None]:
    """prefetch(address): the row there is on its way to the nearest cache, for writing, when this returns."""

    @_intrinsic
    def prefetch(_typing: Any, _address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            byte = ir.IntType(8).as_pointer()
            hint = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, _INT32, _INT32, _INT32])
            write, nearest, of_data = (ir.Constant(_INT32, number) for number in (1, 3, 1))
            for lane in range(n_columns // LANES):
                line = builder.bitcast(_pointer(builder, arguments[0], lane), byte)
                builder.call(hint, [line, write, nearest, of_data])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return prefetch  # type: ignore[no-any-return]


@_intrinsic
def claim(_typing: Any, _address: Any) -> Any:
    """claim(address of an int64) -> its value, raised by one in the same atomic step: a turn nobody else gets."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        counter = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(_INT64, 1), "monotonic")

    return types.int64(types.int64), generate


def _declared(builder: Any, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _pointer(builder: Any, address: Any, lane: int) -> Any:
    offset = ir.Constant(_INT64, lane * LANES * 4)
    return builder.inttoptr(builder.add(address, offset), _VECTOR.as_pointer())


def _load_row(builder: Any, address: Any, n_columns: int) -> list[Any]:
    loads = [builder.load(_pointer(builder, address, lane)) for lane in range(n_columns // LANES)]
    for load in loads:
        load.align = ALIGNMENT
    return loads


def _store(builder: Any, address: Any, lane: int, value: Any) -> None:
    builder.store(value, _pointer(builder, address, lane)).align = ALIGNMENT


def _fma(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    fused = _declared(builder, "llvm.fma.v16f32", _VECTOR, [_VECTOR] * 3)
    return builder.call(fused, [left, right, addend])


def _multiply_accumulate(builder: Any, ps: list[Any], qs: list[Any]) -> Any:
    """Lane-wise sums of products, in two chains so that one multiplication need not wait for the other."""
    sums: list[Any] = []
    for lane, (p, q) in enumerate(zip(ps, qs, strict=True)):
        if lane < 2:
            sums.append(builder.fmul(p, q, flags=FAST_MATH))
        else:
            sums[lane % 2] = _fma(builder, p, q, sums[lane % 2])
    return sums[0] if len(sums) == 1 else builder.fadd(sums[0], sums[1], flags=FAST_MATH)


def _sum(builder: Any, vector: Any) -> Any:
    reduce = _declared(builder, "llvm.vector.reduce.fadd.v16f32", _FLOAT, [_FLOAT, _VECTOR])
    return builder.call(reduce, [ir.Constant(_FLOAT, -0.0), vector], fastmath=FAST_MATH)


def _spread(builder: Any, scalar: Any) -> Any:
    unset = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(unset, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(single, unset, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))
