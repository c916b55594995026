"""Rounding to the E2M1 grid: to nearest even, or stochastically from given random bits.

Random bits are an operand of :func:`round_stochastic`, so that every back end and every test can
round with the same bits; :func:`random_bits` draws them from a key.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Float, Integer


def _step(magnitude: Array) -> tuple[Array, Array]:
    """Grid spacing 0.5, 1 or 2 around an E2M1 magnitude, and its reciprocal (both exact)."""
    low, middle = magnitude < 2, magnitude < 4
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    step = jnp.where(low, half, jnp.where(middle, one, two))
    per_step = jnp.where(low, two, jnp.where(middle, one, half))
    return step, per_step


def round_nearest(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Nearest E2M1 value of float32 numbers in [-6, 6], ties to the even code.

    Scaling by a power of two is exact, so this is round-half-even in units of the local step.

    Example:
        >>> import jax.numpy as jnp
        >>> round_nearest(jnp.array([0.25, 0.75, 2.5, 5.0, -3.5])).tolist()
        [0.0, 1.0, 2.0, 4.0, -4.0]
    """
    step, per_step = _step(jnp.abs(y))
    return jnp.round(y * per_step) * step


def round_stochastic(
    y: Float[Array, "*shape"], bits: Integer[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """One of the two E2M1 neighbours of float32 numbers in [-6, 6], chosen by random bits.

    With ``n`` bits an element, ``|y| = (i + f) * step`` goes up iff ``f * 2**n + bits >= 2**n``,
    that is with probability ``floor(f * 2**n) / 2**n``: at most ``2**-n`` of a step too small.

    Args:
        y: numbers to round, after clamping to 6.
        bits: uint8 (n = 8, as the hardware instruction) or uint32 below 2**24 (n = 24).

    Example:
        >>> import jax.numpy as jnp
        >>> bits = jnp.array([0, 255], jnp.uint8)
        >>> round_stochastic(jnp.array([2.25, 2.25]), bits).tolist()
        [2.0, 3.0]
    """
    full = np.float32(2 ** _bit_width(bits))
    magnitude = jnp.abs(y)
    step, per_step = _step(magnitude)
    t = magnitude * per_step
    low = jnp.floor(t)
    # t - low is exact, and so is each side of the comparison: no float32 rounding adds a bias.
    up = (t - low) * full >= full - bits.astype(jnp.float32)
    return jnp.copysign((low + up.astype(jnp.float32)) * step, y)


def _bit_width(bits: Array) -> int:
    if bits.dtype == jnp.uint8:
        return 8
    if bits.dtype == jnp.uint32:
        return 24
    raise ValueError(f"bits has dtype {bits.dtype}; use uint8 (8 bits) or uint32 (24 bits).")


def random_bits(key: Array, shape: tuple[int, ...], width: int) -> Array:
    """Random bits for :func:`round_stochastic`: uint8 for width 8, uint32 below 2**24 for 24.

    A counter hashed with the key: element i of the flattened array always gets the same bits for
    the same key, whatever the sharding. Four elements share one 32-bit hash at width 8. Threefry
    draws 32 bits an element at ten times the cost, which is why it is not used here.
    Arrays of more than 2**32 hashes (2**34 elements at width 8) repeat their bits.

    Args:
        key: a ``jax.random`` key (typed or raw).
        shape: shape of the result.
        width: 8 or 24.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    size = math.prod(shape)
    if width == 8:
        words = hash_counter(lax.iota(jnp.uint32, -(-size // 4)), seed)
        return lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape)
    if width == 24:
        return (hash_counter(lax.iota(jnp.uint32, size), seed) >> 8).reshape(shape)
    raise ValueError(f"width is {width}; 8 and 24 are allowed.")


def hash_counter(counter: Array, seed: Array | tuple[Array, Array]) -> Array:
    """Random uint32: two keyed rounds of a 32-bit integer finalizer.

    Args:
        counter: uint32; what is hashed, for example an element's index.
        seed: two uint32, the key.
    """
    return _finalize(_finalize(counter ^ seed[0]) + seed[1])


def _finalize(h: Array) -> Array:
    """Bijective mixing of 32 bits (C. Wellons, "Prospecting for hash functions", lowbias32)."""
    h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
    return h ^ (h >> 16)
