"""The sums over ratings where a Gibbs sampler spends its time, as 16-lane vectors that stay in registers.

A sum of outer products y y' of 16 numbers is 16 registers of 16 lanes; a rating costs one load of y and 17 fused
multiply-adds. Plain loops over the same arrays are a tenth as fast: the compiler cannot know that sums and vectors do
not overlap, so that it stores every sum after every rating.
"""

from typing import Any

import numba.core.cgutils
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

COLUMNS = 16
"""Numbers in a vector of the sampler: one register."""

_code: Any = numba.core.cgutils
_intrinsic: Any = intrinsic  # kernels call what it makes, with other arguments than its signature says
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, COLUMNS)
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_ROW_BYTES = 4 * COLUMNS


@_intrinsic
def sum_products(
    _typing: Any,
    _vectors: Any,
    _weights: Any,
    _others: Any,
    _values: Any,
    _start: Any,
    _end: Any,
    _mean: Any,
    _gram: Any,
    _pull: Any,
) -> Any:
    """sum_products(vectors, weights, others, values, start, end, mean, gram, pull): over t from start to end, with y
    and w the row others[t] of vectors [m, 16] and weights [m], and r = values[t] - mean, gram [16, 16] becomes
    sum w y y' and pull [16] sum w r y.

    All but the three numbers are addresses: of float32, and of int32 for others.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vectors, weights, others, values, start, end, mean, gram, pull = arguments
        sums = [_code.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(COLUMNS + 1)]
        with _code.for_range_slice(builder, start, end, ir.Constant(_INT64, 1), _INT64, inc=True) as (at, _):
            other = builder.sext(_load(builder, others, builder.mul(at, _constant(4)), _INT32), _INT64)
            row = builder.add(vectors, builder.mul(other, _constant(_ROW_BYTES)))
            weight = _load(builder, weights, builder.mul(other, _constant(4)), _FLOAT)
            weighted = builder.fmul(_spread(builder, weight), _load(builder, row, _constant(0), _VECTOR))
            rest = builder.fsub(_load(builder, values, builder.mul(at, _constant(4)), _FLOAT), mean)
            factors = [_load(builder, row, _constant(4 * f), _FLOAT) for f in range(COLUMNS)]
            for total, factor in zip(sums, [*factors, rest], strict=True):
                builder.store(_fma(builder, _spread(builder, factor), weighted, builder.load(total)), total)
        for f in range(COLUMNS):
            _store(builder, builder.load(sums[f]), gram, f)
        _store(builder, builder.load(sums[COLUMNS]), pull, 0)
        return _context.get_dummy_value()

    signature = types.void(*[types.int64] * 6, types.float32, types.int64, types.int64)
    return signature, generate


def _constant(number: int) -> ir.Constant:
    return ir.Constant(_INT64, number)


def _load(builder: Any, address: Any, offset: Any, kind: ir.Type) -> Any:
    loaded = builder.load(builder.inttoptr(builder.add(address, offset), kind.as_pointer()))
    loaded.align = 4
    return loaded


def _store(builder: Any, vector: Any, address: Any, row: int) -> None:
    place = builder.inttoptr(builder.add(address, _constant(_ROW_BYTES * row)), _VECTOR.as_pointer())
    builder.store(vector, place).align = 4


def _fma(builder: Any, left: Any, right: Any, addend: Any) -> Any:
    name = "llvm.fma.v16f32"
    known = builder.module.globals.get(name)
    fused = known or ir.Function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), name)
    return builder.call(fused, [left, right, addend])


def _spread(builder: Any, scalar: Any) -> Any:
    unset = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(unset, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(single, unset, ir.Constant(ir.VectorType(_INT32, COLUMNS), [0] * COLUMNS))
