"""Float32 arithmetic that XLA must not rewrite.

XLA's simplifier turns ``x / constant`` and ``x / broadcast(s)`` into multiplications by a rounded
reciprocal, and LLVM contracts ``a * b - c`` to a fused multiply-add. Both change last bits, and
with them codes. A division of two arrays of the same shape behind a barrier stays a division.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float

barrier = lax.optimization_barrier


def divide(x: Float[Array, "*shape"], divisor: float) -> Float[Array, "*shape"]:
    """``x / divisor`` with one rounding, for a constant divisor."""
    return x / barrier(jnp.full_like(x, divisor))


def gradual_underflow(x: Float[Array, "*shape"], exponent: int) -> Float[Array, "*shape"]:
    """Non-negative numbers in units of 2**-exponent, rounded as float32 rounds subnormals.

    XLA:CPU flushes subnormals to zero. Scaled by 2**exponent they are normal numbers, and rounding
    them to multiples of the scaled smallest subnormal, 2**-149, gives the bits of IEEE arithmetic.
    """
    unit = np.float32(2.0 ** (exponent - 149))
    smallest_normal = np.float32(2.0 ** (exponent - 126))
    return jnp.where(x < smallest_normal, jnp.round(x * (1 / unit)) * unit, x)


def materialize(
    x: Float[Array, "*blocks"], like: Float[Array, "*blocks"]
) -> Float[Array, "*blocks"]:
    """``x``, kept in memory instead of being recomputed for each of the 16 elements of a block.

    XLA fuses cheap producers into every consumer, which repeats the block-scale arithmetic per
    element (measured on CPU: 1.3 times the time of a whole quantizer). It never duplicates a
    division, so this divides by an array of ones. ``like`` is any finite array of x's shape; it
    makes the ones, so that they cannot be folded away. Where ``like`` is NaN the result is NaN.
    """
    return x / (like * 0 + 1)
