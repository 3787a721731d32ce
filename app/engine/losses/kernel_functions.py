"""Functions of one float32 for kernels: no branch, no call, no float64, and correct for infinities and NaN.

Calls of library functions would keep LLVM from optimising a loop as a whole; these are polynomials that are inlined.
Relative errors are below 1e-6 unless a docstring says otherwise. Kernels are named by this file's text too, so a change
here recompiles them. Plain arithmetic without fast-math: compensated rounding must not be optimised away.
"""

import math
from typing import Any

from numba import float32, njit

from app.engine.simd.float_vectors import absolute, exponent_of, fused, mantissa_of, nearest, root, select, two_to_the

__all__ = ["absolute", "root", "select"]  # these are instructions of the processor
_inlined: Any = njit(forceinline=True, error_model="numpy", fastmath={"contract"})


@_inlined
def quotient(a: Any, b: Any) -> Any:
    """a / b; infinite or NaN where b is zero, instead of an exception."""
    return a / b


@_inlined
def square(u: Any) -> Any:
    return u * u


@_inlined
def sign(u: Any) -> Any:
    """-1, 0 or 1."""
    return select(u > float32(0), float32(1), select(u < float32(0), float32(-1), u))


@_inlined
def clamp(u: Any, delta: Any) -> Any:
    """u between -delta and delta."""
    return select(u > delta, delta, select(u < -delta, -delta, u))


@_inlined
def huber(u: Any, delta: Any) -> Any:
    """u^2 / 2 within delta, delta (|u| - delta / 2) beyond."""
    size = absolute(u)
    within = select(size < delta, size, delta)
    return within * (size - float32(0.5) * within)


@_inlined
def exponential(u: Any) -> Any:
    """2^n e^f with n whole and |f| <= log(2) / 2; e^f by its Taylor series, whose seventh term is below 2e-8."""
    x = select(u > float32(89.0), float32(89.0), select(u < float32(-104.0), float32(-104.0), u))
    n = nearest(x * float32(1.4426950408889634))
    f = fused(n, float32(-0.693359375), x)
    f = fused(n, float32(2.12194440e-4), f)
    f2 = f * f
    high = fused(fused(float32(1.0 / 5040), f, float32(1.0 / 720)), f2, fused(float32(1.0 / 120), f, float32(1.0 / 24)))
    low = fused(fused(float32(1.0 / 6), f, float32(0.5)), f2, fused(f, float32(1.0), float32(1.0)))
    y = fused(high, f2 * f2, low)
    half = nearest(n * float32(0.5))  # in two factors: 2^n itself may be out of range where the result is not
    return (y * two_to_the(half)) * two_to_the(n - half)


@_inlined
def logarithm(u: Any) -> Any:
    """log(2^n m) = n log 2 + log m with m from sqrt(1/2) to sqrt(2); log m by Cephes' polynomial (Moshier, logf)."""
    is_small = u < float32(1.17549435e-38)
    x = select(is_small, u * float32(8388608.0), u)
    m = mantissa_of(x) - float32(1.0)
    count = exponent_of(x) - select(is_small, float32(23.0), float32(0.0))
    z = m * m
    y = float32(7.0376836292e-2)
    y = fused(y, m, float32(-1.1514610310e-1))
    y = fused(y, m, float32(1.1676998740e-1))
    y = fused(y, m, float32(-1.2420140846e-1))
    y = fused(y, m, float32(1.4249322787e-1))
    y = fused(y, m, float32(-1.6668057665e-1))
    y = fused(y, m, float32(2.0000714765e-1))
    y = fused(y, m, float32(-2.4999993993e-1))
    y = fused(y, m, float32(3.3333331174e-1))
    y = y * m * z
    y = fused(count, float32(-2.12194440e-4), y)
    y = fused(float32(-0.5), z, y)
    y = fused(count, float32(0.693359375), m + y)
    y = select(u < float32(math.inf), y, u)  # infinity and NaN stay
    y = select(u == float32(0.0), float32(-math.inf), y)
    return select(u < float32(0.0), float32(math.nan), y)


@_inlined
def logarithm_of_1_plus(u: Any) -> Any:
    """log(1 + u), corrected for the rounding error of 1 + u (Goldberg 1991, theorem 4)."""
    v = float32(1.0) + u
    lost = u - (v - float32(1.0))
    corrected = logarithm(v) + select(absolute(v) < float32(1e30), quotient(lost, v), float32(0.0))
    return select(v == float32(0.0), float32(-math.inf), corrected)


@_inlined
def tanh(u: Any) -> Any:
    """x P(x^2) / Q(x^2) on [-7.3, 7.3], beyond which it is 1 but for 1e-6.

    P of degree 4 and Q of degree 3 have the least largest relative error, 1e-7 (weighted least squares, weights raised
    where the error is largest: Lawson 1961). A step of SGD waits for this, so it is a few short chains side by side.
    """
    x, square_of_x = clamp(u, float32(7.3)), u * u
    z = select(square_of_x > float32(53.29), float32(53.29), square_of_x)
    z2 = z * z
    low = fused(x * float32(0.1277118495), z, x * float32(0.9999999031))
    high = fused(x * float32(-7.035251428e-09), z2, fused(x * float32(7.633872714e-06), z, x * float32(0.002757098659)))
    q = fused(
        fused(float32(0.0002046525003), z, float32(0.02310640218)), z2, fused(float32(0.4610443559), z, float32(1.0))
    )
    return quotient(fused(high, z2, low), q)


@_inlined
def cosh(u: Any) -> Any:
    half = float32(0.5) * exponential(absolute(u))
    return half + quotient(float32(0.25), half)


@_inlined
def sinh(u: Any) -> Any:
    """The difference of exponentials, or the Taylor series where the difference would cancel."""
    size = absolute(u)
    half = float32(0.5) * exponential(size)
    large = half - quotient(float32(0.25), half)
    z = u * u
    small = fused(
        fused(fused(z, float32(1.0 / 362880), float32(1.0 / 5040)), z, float32(1.0 / 120)), z, float32(1.0 / 6)
    )
    return select(size < float32(1.0), fused(small * z, u, u), select(u < float32(0.0), -large, large))


@_inlined
def sigmoid(u: Any) -> Any:
    small = exponential(-absolute(u))
    return quotient(select(u < float32(0.0), small, float32(1.0)), float32(1.0) + small)


@_inlined
def softplus(u: Any) -> Any:
    """log(1 + exp(u))."""
    return select(u < float32(0.0), float32(0.0), u) + logarithm_of_1_plus(exponential(-absolute(u)))


@_inlined
def log_cosh(u: Any) -> Any:
    """log(cosh(u)), with an absolute error of 1e-7."""
    size = absolute(u)
    return size + logarithm_of_1_plus(exponential(float32(-2.0) * size)) - float32(0.6931471805599453)


@_inlined
def power(u: Any, exponent: Any) -> Any:
    """u^exponent for u >= 0, with a relative error of 1e-7 (1 + |exponent log u|)."""
    return select(
        u == float32(0.0),
        select(exponent > float32(0.0), float32(0.0), float32(math.inf)),
        exponential(exponent * logarithm(u)),
    )
