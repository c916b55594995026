"""The key of one call: that of the layer, and a fingerprint of the call's input.

A layer may be called several times within a step: shared by two branches, or once per time step of
a recurrent scan. Were each call to round with the same bits, their errors would be alike and add up
instead of cancelling. What tells the calls apart is their data:

    key of a call = fold_in(key of the layer, fingerprint(x))

A counter of calls would tell apart equal inputs as well, but it is state: the body of a scan is
traced once and cannot count in Python, a variable that every call changes cannot be changed inside
``jax.lax.scan``, ``vmap`` or ``grad`` of a function that closes over the model, and evaluating a
model twice would give two results. The fingerprint needs no state. The same call repeated draws the
same bits, and so does the recomputation of ``jax.checkpoint``; it works in any transformation, and
under ``shard_map`` shards with different data differ, although they hold one key.

The fingerprint is made of at most 1024 values, evenly spaced in x, in units of half their mean
magnitude, and of that mean in steps of 1/16 octave. Coarse on purpose: an input whose last bits
differ, because it was computed in another order (in a lane of ``vmap``, on several devices), has
the same fingerprint but for about one call in a thousand; then the bits are others, and as good.

Calls whose inputs agree in all these values share their bits. What they round of x and w is nearly
equal then, too; only their gradients may differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.rounding import hash_counter
from fp4jax.core.typing import Array, ArrayLike, Integer, Shaped

#: Values of x that the fingerprint sees, at most.
SAMPLES = 1024


def call_key(key: Array, x: Shaped[ArrayLike, "..."]) -> Array:
    """The key of a layer's call on ``x``.

    Example:
        >>> key, x = jax.random.key(0), jnp.arange(32.0)
        >>> same, other = call_key(key, x), call_key(key, x[::-1])
        >>> bool(same == call_key(key, x)), bool(same == other)
        (True, False)
    """
    x = jnp.asarray(x)
    if not x.size:
        return key
    return jax.random.fold_in(key, _fingerprint(lax.stop_gradient(x)))


@jax.jit
def _fingerprint(x: Shaped[Array, "..."]) -> Integer[Array, ""]:
    out = sharding.replicated() if sharding.explicit_mesh() else None
    return sharding.automatic(_of_samples, out)(x)


def _of_samples(x: Array) -> Array:
    samples = lax.slice(x, (0,) * x.ndim, x.shape, _strides(x.shape)).astype(jnp.float32)
    mean = jnp.abs(samples).mean()
    # Zeros have the mean 0; NaN and Inf, which poison the result anyway, count as 0.
    steps = _whole(jnp.where(mean > 0, samples / (mean / 2), np.float32(0)), 127)
    octave = _whole(jnp.where(mean > 0, 16 * jnp.log2(mean), np.float32(0)), 4096)
    position = lax.iota(jnp.uint32, samples.size) * np.uint32(256)
    words = hash_counter(position + steps.reshape(-1), jnp.stack([octave, octave]))
    return words.sum(dtype=jnp.uint32)


def _whole(x: Array, most: int) -> Array:
    """The nearest integers from -most to most, counted from 0."""
    return (jnp.clip(jnp.nan_to_num(jnp.round(x)), -most, most) + most).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps along each axis that leave at most :data:`SAMPLES` values; long axes are thinned."""
    left, strides = list(shape), [1] * len(shape)
    while np.prod(left, dtype=np.int64) > SAMPLES:
        longest = left.index(max(left))
        strides[longest] *= 2
        left[longest] = -(-shape[longest] // strides[longest])
    return tuple(strides)
