"""Float32 arithmetic that XLA must not rewrite.

XLA's simplifier turns ``x / constant`` and ``x / broadcast(s)`` into multiplications by a rounded
reciprocal, and LLVM contracts ``a * b - c`` to a fused multiply-add. Both change last bits, and
with them codes. A division of two arrays of the same shape behind a barrier stays a division.
"""

import jax.numpy as jnp
from jax import lax

from fp4jax.typing import Array, Float

barrier = lax.optimization_barrier


def divide(x: Float[Array, "*shape"], divisor: float) -> Float[Array, "*shape"]:
    """``x / divisor`` with one rounding, for a constant divisor."""
    return x / barrier(jnp.full_like(x, divisor))


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
