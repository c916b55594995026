"""Float32 arithmetic that XLA must not rewrite.

XLA's simplifier turns ``x / constant`` and ``x / broadcast(s)`` into multiplications by a rounded
reciprocal, and LLVM contracts ``a * b - c`` to a fused multiply-add. Both change last bits, and
with them codes. A division of two arrays of the same shape behind a barrier stays a division.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float, Integer, Shaped

barrier = lax.optimization_barrier

_EXPONENT = np.int32(0x7F800000)
_MANTISSA_BITS = 23


def bits(x: Float[Array, "*shape"]) -> Integer[Array, "*shape"]:
    """float32 numbers' bits as int32; of magnitudes they sort as numbers do, NaN above Inf."""
    return lax.bitcast_convert_type(x, jnp.int32)


def from_bits(b: Integer[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of :func:`bits`."""
    return lax.bitcast_convert_type(b, jnp.float32)


def exponent_bits(
    magnitude: Float[Array, "*shape"], smallest_normal: float
) -> Integer[Array, "*shape"]:
    """Bits of the power of two at or below a number, or of a format's smallest normal number.

    Adding ``n << 23`` to them multiplies the power of two by 2**n.
    """
    return bits(jnp.maximum(magnitude, np.float32(smallest_normal))) & _EXPONENT


def round_mantissa(
    magnitude: Float[Array, "*shape"], mantissa: int, smallest_normal: float
) -> Float[Array, "*shape"]:
    """Non-negative numbers rounded to nearest, ties to even, to ``mantissa`` bits; NaN stays NaN.

    Float32's own rounding does it: a number is added whose float32 neighbours are as far apart as
    the format's, which drops all lower bits, and taking it away again is exact. The spacing does
    not shrink below that at ``smallest_normal``.

    Example:
        >>> import jax.numpy as jnp
        >>> round_mantissa(jnp.array([0.3, 1.3, 2.5, 5.0]), 1, 1.0).tolist()
        [0.5, 1.5, 2.0, 4.0]
    """
    exponent = exponent_bits(magnitude, smallest_normal)
    large = from_bits(exponent + np.int32((_MANTISSA_BITS - mantissa) << _MANTISSA_BITS))
    return (magnitude + large) - large


def divide(x: Float[Array, "*shape"], divisor: float) -> Float[Array, "*shape"]:
    """``x / divisor`` with one rounding, for a constant divisor."""

    @jax.custom_batching.custom_vmap
    def divided(x: Array) -> Array:
        return x / barrier(jnp.full_like(x, divisor))

    # Of an array with one more axis. JAX's own rule would broadcast the divisor of a single lane
    # behind the barrier, which XLA multiplies with.
    @divided.def_vmap
    def _(size: Any, batched: list[bool], x: Array) -> tuple[Array, bool]:  # may be symbolic
        return divide(x, divisor), True

    return divided(x)


def scale_by_power_of_two(
    x: Float[Array, "*shape"], exponent: Integer[Array, "..."]
) -> Float[Array, "*shape"]:
    """``x * 2**exponent`` for int32 exponents from -127 to 127; NaN for 128.

    In two steps: 2**-127 itself is no normal float32 number, which XLA:CPU would flush to zero.

    Example:
        >>> y = scale_by_power_of_two(jnp.array([6.0, 6.0, 1.0]), jnp.array([-127, 2, 128]))
        >>> bool(y[0] == 1.5 * 2.0**-125), y[1:].tolist()
        (True, [24.0, nan])
    """
    half = exponent >> 1
    first, second = (from_bits((e + 127) << _MANTISSA_BITS) for e in (half, exponent - half))
    second = lax.select(exponent > 127, lax.full_like(second, np.nan), second)
    return (x * first) * second


def gradual_underflow(
    x: Float[Array, "*shape"], limit: Float[Array, "..."]
) -> Float[Array, "*shape"]:
    """Non-negative numbers, those below ``limit`` rounded to multiples of limit * 2**-23.

    XLA:CPU flushes float32's subnormals to zero. Arithmetic in units of 2**-e has normal numbers
    there; with ``limit`` float32's smallest normal number in these units, 2**(e - 126), they get
    the bits that IEEE's gradual underflow gives. A limit of 0 leaves x as it is.

    The limit must not be a constant, or XLA takes the sum for x.
    """
    limit = jnp.broadcast_to(limit, x.shape)
    # The minimum only keeps the sum from being contracted with a product that x may be.
    return lax.select(x < limit, (jnp.minimum(x, limit) + limit) - limit, x)


def materialize(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """``x``, written to memory by one kernel, not recomputed in every kernel that reads it.

    XLA fuses cheap producers into every consumer. That repeats the arithmetic of a block's scale
    for each of its 16 elements (measured on CPU: 1.3 times the time of a whole quantizer), and a
    chain of sums, as a residual stream is, from its beginning in every block. It never duplicates
    a division, so this divides by ones that cannot be folded away. Derivatives are kept, too.
    """
    return lax.div(x, barrier(jnp.ones_like(x)))


def rows(table: Shaped[Array, "rows ..."]) -> list[Shaped[Array, "..."]]:
    """``list(table)``, every row in memory, read by one kernel for all of them.

    A slice has its place in its kernel's code, so that XLA:CPU compiles a kernel for each row: 12
    ms of CPU time, and a training step has a row for every layer. The places that a gather reads
    are an operand. (One place alone, of rows of one number, would be a slice again.)

    Example:
        >>> import jax.numpy as jnp
        >>> [row.tolist() for row in rows(jnp.array([[1, 2], [3, 4]]))]
        [[1, 2], [3, 4]]
    """
    places = np.arange(table.size, dtype=np.int32).reshape(len(table), -1)
    flat = table.reshape(-1)
    return [
        materialize(flat.at[place].get(mode="promise_in_bounds").reshape(table.shape[1:]))
        for place in places
    ]
