"""Rounding to a grid, E2M1 by default: to nearest even, or stochastically from given random bits.

Random bits are an operand of :func:`round_stochastic`, so that every back end and every test can
round with the same bits; :func:`random_bits` draws them from a key.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact
from fp4jax.core.grids import E2M1, Grid
from fp4jax.core.seeds import Seed, seed
from fp4jax.core.typing import Array, Float, Integer

# What the bits of 2 x exceed those of x by.
_ONE_EXPONENT = np.int32(1 << 23)


def round_nearest(y: Float[Array, "*shape"], grid: Grid = E2M1) -> Float[Array, "*shape"]:
    """Nearest number of the grid, the largest for those beyond it; ties to the even code.

    Example:
        >>> import jax.numpy as jnp
        >>> round_nearest(jnp.array([0.25, 0.75, 2.5, 5.0, -3.5, 9.0])).tolist()
        [0.0, 1.0, 2.0, 4.0, -4.0, 6.0]
        >>> from fp4jax.core.grids import INT4
        >>> round_nearest(jnp.array([0.5, 1.5, -2.4, 9.0]), INT4).tolist()
        [0.0, 2.0, -2.0, 7.0]
    """
    # The sign of a number that is rounded to zero stays.
    rounded = lax.sign(y) * exact.round_mantissa(
        _magnitude(y, grid), grid.mantissa, grid.smallest_normal
    )
    return _integers(rounded) if grid.integers else rounded


def _integers(rounded: Array) -> Array:
    """Integers have no negative zero."""
    return jnp.where(rounded == 0, jnp.float32(0), rounded)


def _magnitude(y: Array, grid: Grid) -> Array:
    return jnp.minimum(jnp.abs(y), grid.maximum)


def round_stochastic(
    y: Float[Array, "*shape"], random: Integer[Array, "*shape"], grid: Grid = E2M1
) -> Float[Array, "*shape"]:
    """One of the two neighbours on the grid of float32 numbers clamped to it, by random bits.

    With ``n`` bits an element, ``|y| = (i + f) * step`` goes up iff ``f * 2**n + random >= 2**n``,
    that is with probability ``floor(f * 2**n) / 2**n``: at most ``2**-n`` of a step too small.

    Args:
        y: numbers to round.
        random: uint8 (n = 8, as the hardware instruction) or uint32 below 2**24 (n = 24).
        grid: what to round to.

    Example:
        >>> import jax.numpy as jnp
        >>> random = jnp.array([0, 255], jnp.uint8)
        >>> round_stochastic(jnp.array([2.25, 2.25]), random).tolist()
        [2.0, 3.0]
    """
    full = np.float32(2 ** _bit_width(random))
    magnitude = _magnitude(y, grid)
    # The grid's step (0.5, 1 or 2 for E2M1) and its reciprocal: powers of two, so all is exact.
    exponent = exact.exponent_bits(magnitude, grid.smallest_normal)
    step_bits = exponent - grid.mantissa * _ONE_EXPONENT
    step, per_step = (exact.from_bits(b) for b in (step_bits, 254 * _ONE_EXPONENT - step_bits))
    steps = magnitude * per_step
    low = jnp.floor(steps)
    up = (steps - low) * full >= full - random.astype(jnp.float32)
    rounded = lax.sign(y) * ((low + up.astype(jnp.float32)) * step)
    return _integers(rounded) if grid.integers else rounded


def _bit_width(bits: Array) -> int:
    if bits.dtype == jnp.uint8:
        return 8
    if bits.dtype == jnp.uint32:
        return 24
    raise ValueError(f"bits has dtype {bits.dtype}; use uint8 (8 bits) or uint32 (24 bits).")


def random_bits(key: Array | Seed, shape: tuple[int, ...], width: int) -> Array:
    """Random bits for :func:`round_stochastic`: uint8 for width 8, uint32 below 2**24 for 24.

    A counter hashed with the key: element i of the flattened array always gets the same bits for
    the same key, whatever the sharding. Four elements share one 32-bit hash at width 8. Threefry
    draws 32 bits an element at ten times the cost, which is why it is not used here.
    Arrays of more than 2**32 hashes (2**34 elements at width 8) repeat their bits.

    Args:
        key: a ``jax.random`` key (typed or raw), or what :func:`fp4jax.core.seeds.seed` made of it.
        shape: shape of the result.
        width: 8 or 24.
    """
    words = seed(key).words
    size = math.prod(shape)
    if width == 8:
        hashes = hash_counter(lax.iota(jnp.uint32, -(-size // 4)), words)
        return lax.bitcast_convert_type(hashes, jnp.uint8).reshape(-1)[:size].reshape(shape)
    if width == 24:
        return (hash_counter(lax.iota(jnp.uint32, size), words) >> 8).reshape(shape)
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
