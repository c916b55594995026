"""The quantizer's arithmetic inside a kernel, on 16 arrays: element k of every block is array k.

With the elements of a block in 16 arrays of one shape, rotating, finding amax, rounding and
packing are elementwise operations, which stay in a thread's registers; and what is done once a
block is not repeated for its elements. Bits are those of scaling, rounding and hadamard in
fp4jax.core.

Written with what Triton and XLA compute alike: maxima and comparisons of NaN are told apart by
``where``, rounding is adding a large number whose last place is the rounding unit (never taken
away again where XLA would see that it cancels), divisions are IEEE's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton

from fp4jax.core.blocks import BLOCK
from fp4jax.core.formats import E2M1_MAX, E4M3_MAX, FLT_MAX
from fp4jax.core.hadamard import DEFAULT_SIGNS
from fp4jax.core.scaling import MAGNITUDE_BITS, TINY_NORMAL, TINY_SUBNORMAL

Array = jax.Array

_SIGN = np.int32(-(2**31))
_INFINITY = np.int32(0x7F800000)


class Scalars(NamedTuple):
    """What depends on the tensor's amax: see :func:`fp4jax.core.scaling.find_scale`.

    ``per_block`` is S_enc * fl(1/6), or * fl(17/96); ``decode`` is S_dec in units of 1 / ``unit``.
    """

    per_block: Array
    decode: Array
    unit: Array
    amax: Array


class Scale(NamedTuple):
    """Of each block: the E4M3 byte (int32), its value, and what maps x to code values."""

    byte: Array
    value: Array
    encode: Array


def bits(x: Array) -> Array:
    """float32 numbers' bits as int32."""
    return lax.bitcast_convert_type(x, jnp.int32)


def as_float(x: Array) -> Array:
    """The inverse of :func:`bits`."""
    return lax.bitcast_convert_type(x, jnp.float32)


def rotate(x: Sequence[Array]) -> list[Array]:
    """x diag(signs) H16 / 4 of each block, as :func:`fp4jax.core.hadamard.in_pairs` does."""
    signs = zip(x, DEFAULT_SIGNS, strict=True)
    return _add_in_pairs([v * np.float32(sign / 4) for v, sign in signs])


def rotate_back(y: Sequence[Array]) -> list[Array]:
    """The inverse of :func:`rotate`: y H16 diag(signs) / 4."""
    sums = _add_in_pairs([v * np.float32(0.25) for v in y])
    return [s if sign > 0 else -s for s, sign in zip(sums, DEFAULT_SIGNS, strict=True)]


def _add_in_pairs(x: list[Array]) -> list[Array]:
    """H16 by four rounds of sums and differences of two: 64 additions a block."""
    for bit in (1, 2, 4, 8):
        x = [x[j] + x[j | bit] if not j & bit else x[j ^ bit] - x[j] for j in range(BLOCK)]
    return x


def round_bfloat16(x: Sequence[Array], portable: bool) -> list[Array]:
    """float32 numbers rounded to bfloat16, still float32."""
    if portable:
        # Not a cast there and back, which XLA would drop.
        return [lax.reduce_precision(v, exponent_bits=8, mantissa_bits=7) for v in x]
    rounded = []
    for low, high in zip(x[0::2], x[1::2], strict=True):
        both = _assembly("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", jnp.int32, low, high)
        rounded += [as_float(both << 16), as_float(both & np.int32(-(1 << 16)))]
    return rounded


def _assembly(code: str, constraints: str, dtype: Any, *args: Array) -> Array:
    """One instruction of PTX for each element."""
    (result,) = triton.elementwise_inline_asm(
        code,
        args=args,
        constraints=constraints,
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, dtype)],
    )
    return result


def magnitude_bits(x: Sequence[Array]) -> Array:
    """Largest magnitude of each block as int32 bits, which sort as numbers do, NaN above Inf."""
    parts = [bits(v) & MAGNITUDE_BITS for v in x]
    while len(parts) > 1:
        parts = [jnp.maximum(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def block_scale(amax_bits: Array, scalars: Scalars, portable: bool) -> Scale:
    """E4M3 scales and encode multipliers from the blocks' amax."""
    x = as_float(amax_bits) * scalars.per_block
    # A given amax would hide an Inf: see scaling.infinite_as_nan.
    hidden = (amax_bits == _INFINITY) & (scalars.amax < np.float32(np.inf))
    nan = (x != x) | hidden
    x = jnp.where(x > E4M3_MAX, E4M3_MAX, x)
    normal = bits(x)
    normal = normal + np.int32((1 << 19) - 1) + ((normal >> 20) & 1)
    # The last place of 2**14 is 2**-9, E4M3's smallest number.
    subnormal = bits(x + np.float32(2**14)) & np.int32(15)
    small = x < np.float32(2**-6)
    byte = jnp.where(small, subnormal, (normal >> 20) - np.int32((127 - 7) << 3))
    value = jnp.where(
        small,
        subnormal.astype(jnp.float32) * np.float32(2**-9),
        as_float(normal & np.int32(-(1 << 20))),
    )
    byte = jnp.where(nan, np.int32(0xFF), byte)
    value = jnp.where(nan, as_float(jnp.full_like(byte, 0x7FC00000)), value)
    encode = _divide(scalars.unit, _underflow(value * scalars.decode, scalars.unit), portable)
    return Scale(byte, value, jnp.where(encode > FLT_MAX, FLT_MAX, encode))


def _divide(x: Array, y: Array, portable: bool) -> Array:
    """x / y with one rounding, x a scalar: Triton's own division is an approximation."""
    x = jnp.broadcast_to(x, y.shape)
    if portable:
        return x / y
    return _assembly("div.rn.f32 $0, $1, $2;", "=f,f,f", jnp.float32, x, y)


def _underflow(x: Array, unit: Array) -> Array:
    """float32's gradual underflow where the tensor is so small that ``unit`` is not 1."""
    magic = np.float32(2**23)
    steps = bits(x * np.float32(1 / TINY_SUBNORMAL) + magic) - bits(jnp.full_like(x, magic))
    rounded = steps.astype(jnp.float32) * np.float32(TINY_SUBNORMAL)
    return jnp.where((unit != 1) & (x < np.float32(TINY_NORMAL)), rounded, x)


def to_code_range(x: Array, encode: Array) -> Array:
    """|x * encode|, at most 6; what NaN becomes does not matter."""
    y = as_float(bits(x * encode) & MAGNITUDE_BITS)
    return jnp.minimum(y, E2M1_MAX)


class Rounded(NamedTuple):
    """Codes without sign (int32, above the lowest 3 bits anything) and magnitudes."""

    code: Array
    magnitude: Array


def round_nearest(y: Array) -> Rounded:
    """The nearest E2M1 magnitude, ties to the even code, of numbers from 0 to 6.

    The last place of 2**22, 2**23 and 2**24 is the grid's spacing below 2, 4 and above; the
    numbers of steps below 2 and below 4 are added to what these have in their last places.
    """
    large = jnp.where(y < 4, np.float32(2**23 + 2), np.float32(2**24 + 8))
    large = jnp.where(y < 2, np.float32(2**22), large)
    shifted = y + large
    return Rounded(bits(shifted), shifted - large)


def round_stochastic(y: Array, random: Array, width: int, portable: bool) -> Rounded:
    """E2M1 magnitudes of numbers from 0 to 6, rounded up by ``random`` < 2**width.

    Adding the random bits below the last bit that is kept carries into it with the probability of
    rounding up, and from there into the exponent. Numbers below 1, where the grid is uniform down
    to 0, are taken as the mantissa of 1 + y.
    """
    small = y < 1
    one = jnp.where(small, np.float32(1), np.float32(0))
    if width == 8:
        total = bits(_add_towards_zero(y, one, portable)) + (random << (22 - width))
        high, kept = total >> 22, total & np.int32(-(1 << 22))
    else:
        # Two bits more than a mantissa has; of the exponent they leave what a code needs.
        fraction = _truncate(y * np.float32(2**25), portable)
        total = jnp.where(small, fraction, (bits(y) - np.int32(127 << 23)) << 2) + random
        high = (total >> 24) + np.int32(127 << 1)
        kept = high << 22
    # A code is the two lowest bits of exponent and mantissa's first, less 252; 254 below 1.
    return Rounded(high + jnp.where(small, np.int32(2), np.int32(4)), as_float(kept) - one)


def _add_towards_zero(y: Array, one: Array, portable: bool) -> Array:
    """y + one, not rounded but cut."""
    if not portable:
        return _assembly("add.rz.f32 $0, $1, $2;", "=f,f,f", jnp.float32, y, one)
    nearest = y + one
    return as_float(bits(nearest) - (nearest - one > y).astype(jnp.int32))


def _truncate(y: Array, portable: bool) -> Array:
    """The integer part; a cast in a kernel would clamp first."""
    if portable:
        return y.astype(jnp.int32)
    return _assembly("cvt.rzi.s32.f32 $0, $1;", "=r,f", jnp.int32, y)


def signed_code(x: Array, code: Array) -> Array:
    """The code's 3 bits and x's sign."""
    return (code & 7) | ((bits(x) >> 28) & 8)


def signed(x: Array, magnitude: Array) -> Array:
    """The magnitude with x's sign."""
    return as_float(bits(magnitude) | (bits(x) & _SIGN))
