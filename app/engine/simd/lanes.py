"""Memory layout of float32 rows, LLVM building blocks for Numba intrinsics, prefetches and atomic counters."""

from collections.abc import Callable, Sequence
from typing import Any

import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

from app.engine.arrays import Matrix32

LANES = 16
"""float32 numbers in the widest register; rows are padded to a multiple of it."""
ALIGNMENT = 64
LANE_BYTES = LANES * 4
FAST_MATH = ("reassoc", "contract", "nsz", "arcp", "afn")
"""Reordering and fusing, but NaN and infinity keep their meaning: without them divergence could not be detected."""

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
WIDE, FOUR = ir.VectorType(FLOAT, LANES), ir.VectorType(FLOAT, 4)

# Numba is typed in part, and kernels call intrinsics with other arguments than they are written with.
intrinsic: Any = numba.extending.intrinsic


def padded(n_factors: int) -> int:
    """The next multiple of 16: the length of a row in memory."""
    return -(-n_factors // LANES) * LANES


def aligned_matrix(n_rows: int, n_columns: int) -> Matrix32:
    """Zeros [n_rows, n_columns] that start at a 64-byte boundary."""
    room = np.zeros(n_rows * n_columns + LANES, np.float32)
    skip = (-room.ctypes.data % ALIGNMENT) // room.itemsize
    return room[skip : skip + n_rows * n_columns].reshape(n_rows, n_columns)


def intrinsic_of(emit: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """A function for kernels of these Numba types, from one that emits its code: emit(builder, *values) -> result."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        value = emit(builder, *values)
        return context.get_dummy_value() if result is types.void else value

    return intrinsic_with_context(generate, result, *arguments)


def intrinsic_with_context(generate: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """As `intrinsic_of`, from Numba's own generate(context, builder, signature, values)."""
    return with_parameters(len(arguments), lambda _arguments: (result(*arguments), generate))


def with_parameters(n_parameters: int, typed: Callable[[Sequence[Any]], Any]) -> Any:
    """An intrinsic of so many parameters; typed(argument types) -> its signature and generator."""
    by_number: dict[int, Callable[..., Any]] = {  # Numba counts the parameters that are written here
        0: lambda _typing: typed(()),
        1: lambda _typing, a: typed((a,)),
        2: lambda _typing, a, b: typed((a, b)),
        3: lambda _typing, a, b, c: typed((a, b, c)),
        4: lambda _typing, a, b, c, d: typed((a, b, c, d)),
        5: lambda _typing, a, b, c, d, e: typed((a, b, c, d, e)),
        7: lambda _typing, a, b, c, d, e, f, g: typed((a, b, c, d, e, f, g)),
    }
    return intrinsic(by_number[n_parameters])


def declared(builder: Any, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    """LLVM's function of this name, declared once per module."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def fused(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    """left right + addend of float vectors, rounded once."""
    kind = left.type
    return builder.call(declared(builder, f"llvm.fma.v{kind.count}f32", kind, [kind] * 3), [left, right, addend])


def shuffle(builder: Any, left: Any, right: Any, lanes: Sequence[int]) -> Any:
    """The lanes of these numbers, counted through both vectors."""
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes)))


def pick(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    """The lanes of these numbers."""
    return shuffle(builder, vector, vector, lanes)


def broadcast(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """The scalar in every lane."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(INT32, 0))
    return pick(builder, single, [0] * vector.count)


def prefetch(builder: Any, pointer: Any, *, for_writing: bool) -> None:
    """Emits a hint that the 64 bytes there should come to the nearest cache."""
    byte = ir.IntType(8).as_pointer()
    function = declared(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, INT32, INT32, INT32])
    choices = (ir.Constant(INT32, choice) for choice in (int(for_writing), 3, 1))  # to the nearest cache, of data
    builder.call(function, [builder.bitcast(pointer, byte), *choices])


def _prefetch_at(builder: Any, address: Any, for_writing: bool) -> None:
    prefetch(builder, builder.inttoptr(address, ir.IntType(8).as_pointer()), for_writing=for_writing)


prefetch_line = intrinsic_of(lambda builder, at: _prefetch_at(builder, at, True), types.void, types.int64)
"""prefetch_line(address): requests the 64 bytes there for writing."""
fetch_line = intrinsic_of(lambda builder, at: _prefetch_at(builder, at, False), types.void, types.int64)
"""fetch_line(address): requests the 64 bytes there for reading."""


def _counter_at(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, INT64.as_pointer())


def _incremented(ordering: str) -> Any:
    one = ir.Constant(INT64, 1)
    return intrinsic_of(
        lambda builder, address: builder.atomic_rmw("add", _counter_at(builder, address), one, ordering),
        types.int64,
        types.int64,
    )


fetch_increment = _incremented("monotonic")
"""fetch_increment(address of an int64) -> its value, atomically incremented: no two threads get the same one."""
increment_release = _incremented("release")
"""increment_release(address of an int64): who reads the new value by `load_acquire` sees all writes before it."""
load_acquire = intrinsic_of(
    lambda builder, address: builder.load_atomic(_counter_at(builder, address), "acquire", 8), types.int64, types.int64
)
"""load_acquire(address of an int64) -> its value."""
