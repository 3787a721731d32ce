"""How rows of float32 lie in memory, and what the processor is told of memory: prefetches, shared counters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from app.engine.arrays import Matrix32

LANES = 16
"""Numbers in the widest register: rows are a multiple of it long."""
ALIGNMENT = 64
LANE_BYTES = LANES * 4
_intrinsic: Any = intrinsic  # what it makes is called from kernels only, with other arguments than it is written with
FAST_MATH = ("reassoc", "contract", "nsz", "arcp", "afn")
"""Reordering and fusing, but NaN and infinity keep their meaning: with them gone a divergence check sees nothing."""

_INT64 = ir.IntType(64)


def padded(n_factors: int) -> int:
    """The next multiple of 16: the length of a row in memory."""
    return -(-n_factors // LANES) * LANES


def aligned_matrix(n_rows: int, n_columns: int) -> Matrix32:
    """Zeros [n_rows, n_columns] that start at a 64-byte boundary."""
    room = np.zeros(n_rows * n_columns + LANES, np.float32)
    skip = (-room.ctypes.data % ALIGNMENT) // room.itemsize
    return room[skip : skip + n_rows * n_columns].reshape(n_rows, n_columns)


def prefetch_for_writing(builder: Any, pointer: Any) -> None:
    """Emits a hint that the 64 bytes there should come to the nearest cache."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    hint = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, hint, _PREFETCH)
    write, nearest, of_data = (ir.Constant(number, choice) for choice in (1, 3, 1))
    builder.call(function, [builder.bitcast(pointer, byte), write, nearest, of_data])


_PREFETCH = "llvm.prefetch.p0"


@_intrinsic
def prefetch_line(_typing: Any, _address: Any) -> Any:
    """prefetch_line(address): the 64 bytes there are on their way to the nearest cache, for writing."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        prefetch_for_writing(builder, builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_intrinsic
def claim(_typing: Any, _address: Any) -> Any:
    """claim(address of an int64) -> its value, raised by one in the same atomic step: a turn nobody else gets."""
    return types.int64(types.int64), _raise_by_one("monotonic")


@_intrinsic
def announce(_typing: Any, _address: Any) -> Any:
    """announce(address of an int64): raises it by one; who sees that with `heard` sees all that was written before."""
    return types.int64(types.int64), _raise_by_one("release")


@_intrinsic
def heard(_typing: Any, _address: Any) -> Any:
    """heard(address of an int64) -> its value, and all that was written before it was announced."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], _INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


def _raise_by_one(ordering: str) -> Callable[..., Any]:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        counter = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(_INT64, 1), ordering)

    return generate
