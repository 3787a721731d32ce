"""Folding in and its intervals in one call each: between small kernels, NumPy takes longer than they do.

The kernels are told where a model's arrays lie: Numba takes longer to look at one that is mapped than to read from it.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import boolean, float64, int64, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from app.engine.arrays import Matrix64, Offsets, Rows, Vector32, Vector64
from app.engine.fold_in.kernels import predict_items, solve_user, trace_of_solved
from app.engine.numba_types import READ_ROWS, READ_VECTOR

_intrinsic: Any = intrinsic

# Where arrays of a model lie, then its sizes. HINTS only where the model is the mean of a posterior.
FACTORS, BIASES, NOISES, KNOWN, COUNTS, HINTS, N_ITEMS, K = range(8)
N_PLACES = 8

# Numbers of a model; `app.engine.fold_in.fold_in` says what those of the prior are.
MEAN, NOISE, UNKNOWN_BIAS, UNKNOWN_VARIANCE, NOISE_RATINGS, DAMPING, HINT_RATINGS = range(7)


@_intrinsic
def _pointer(_typing: Any, _address: Any) -> Any:
    """The address as a pointer, for `carray`."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@njit(
    float64(
        *(int64[::1], float64[::1], READ_ROWS, READ_VECTOR, float64[:, ::1], float64[::1]),
        *(float64[:, ::1], float64[::1], float64[::1], float64[:, ::1], float64[::1]),
    ),
    nogil=True,
    cache=True,
    fastmath={"reassoc", "contract"},
)
def fold_in_averaged(
    places: Offsets,
    numbers: Vector64,
    item_rows: Rows,
    values: Vector32,
    crowd_precision: Matrix64,
    crowd_mean: Vector64,
    hinted_precision: Matrix64,
    hint_base: Vector64,
    count_hint: Vector64,
    upper: Matrix64,
    solution: Vector64,
) -> float:
    """x_u, U with U'U = A_u, and the user's noise, which is given back, where the model is the mean of a posterior.

    item_rows, values [n], with a row that is not -1   the rest [k+1] or [k+1, k+1]   upper, solution: overwritten
    What is computed, and why: `FoldIn._solve` and what it names.
    """
    n_items, k = places[N_ITEMS], places[K]
    factors = carray(_pointer(places[FACTORS]), (n_items, k), np.float32)
    biases = carray(_pointer(places[BIASES]), (n_items,), np.float32)
    noises = carray(_pointer(places[NOISES]), (n_items,), np.float32)
    is_known = carray(_pointer(places[KNOWN]), (n_items,), np.bool_)
    hints = carray(_pointer(places[HINTS]), (n_items, k + 1), np.float32)
    n, moved = 0, np.zeros(k + 1)
    for row in item_rows:
        if row >= 0:
            n += 1
            for f in range(k + 1):
                moved[f] += hints[row, f]
    trust, weight = n / (n + numbers[DAMPING]), n / (n + numbers[HINT_RATINGS])
    root, log = math.sqrt(n + numbers[DAMPING]), math.log(n + numbers[DAMPING])
    mean, precision, pull = np.empty(k + 1), np.empty((k + 1, k + 1)), np.zeros(k + 1)
    for f in range(k + 1):
        hinted = hint_base[f] + moved[f] / root + log * count_hint[f]
        mean[f] = crowd_mean[f] + trust * (hinted - crowd_mean[f])
    for f in range(k + 1):
        for g in range(k + 1):
            precision[f, g] = weight * hinted_precision[f, g] + (1.0 - weight) * crowd_precision[f, g]
            pull[f] += precision[f, g] * mean[g]
    noise, unknown_noise = numbers[NOISE], numbers[NOISE] + numbers[UNKNOWN_VARIANCE]
    solve_user(
        *(item_rows, values, factors, biases, noises, is_known, numbers[MEAN], 1.0 / noise),
        *(numbers[UNKNOWN_BIAS], 1.0 / unknown_noise, precision, pull, upper, solution),
    )
    squared = 0.0
    for t in range(item_rows.size):
        row = item_rows[t]
        if row >= 0:
            error = float64(values[t]) - numbers[MEAN] - solution[0] - biases[row]
            for f in range(k):
                error -= solution[f + 1] * factors[row, f]
            squared += error * error / noises[row]
    precision[0, 0] += (item_rows.size - n) / unknown_noise
    doubts = k + 1 - trace_of_solved(upper, precision)
    found: float = (numbers[NOISE_RATINGS] + squared / noise + doubts) / (numbers[NOISE_RATINGS] + n)
    return found


@njit(
    boolean(
        *(int64[::1], float64[::1], READ_VECTOR, float64, float64[:, ::1], float64, READ_ROWS),
        *(float64[::1], int64[::1], float64[:, ::1]),
    ),
    nogil=True,
    cache=True,
)
def predict_with_intervals(
    places: Offsets,
    numbers: Vector64,
    factors: Vector32,
    bias: float,
    upper: Matrix64,
    noise_scale: float,
    item_rows: Rows,
    reach: Vector64,
    buckets: Offsets,
    told: Matrix64,
) -> bool:
    """The prediction of each item, and both ends of its interval; False, and nothing, where a row is not the model's.

    factors [k], bias, upper, noise_scale: a user's   item_rows [n]   buckets: first number of ratings of each but the
    first   reach [n_buckets]: standard deviations, by the bucket of the item's ratings   told [3, n], overwritten
    """
    n_items, k, n = places[N_ITEMS], places[K], item_rows.size
    item_factors = carray(_pointer(places[FACTORS]), (n_items, k), np.float32)
    biases = carray(_pointer(places[BIASES]), (n_items,), np.float32)
    noises = carray(_pointer(places[NOISES]), (n_items,), np.float32)
    is_known = carray(_pointer(places[KNOWN]), (n_items,), np.bool_)
    counts = carray(_pointer(places[COUNTS]), (n_items,), np.int32)
    for row in item_rows:
        if not -1 <= row < n_items:
            return False
    values, variances = np.empty(n, np.float32), np.empty(n, np.float32)
    predict_items(
        *(factors, bias, upper, item_rows, item_factors, biases, noises, is_known, numbers[MEAN]),
        *(numbers[NOISE] * noise_scale, numbers[UNKNOWN_BIAS], numbers[UNKNOWN_VARIANCE], values, variances),
    )
    for t in range(n):
        bucket, row = 0, item_rows[t]
        while row >= 0 and bucket < buckets.size and buckets[bucket] <= counts[row]:
            bucket += 1
        half = reach[bucket] * math.sqrt(float64(variances[t]))
        told[0, t], told[1, t], told[2, t] = values[t], values[t] - half, values[t] + half
    return True
