"""What tells the calls of a layer within a step apart: a fingerprint of the call's input.

A layer may be called several times within a step: shared by two branches, or once per time step of
a recurrent scan. Were each call to round with the same bits, their errors would be alike and add up
instead of cancelling. A counter of calls would tell them apart, but it is state: the body of a scan
is traced once and cannot count in Python, a variable that every call changes cannot be changed
inside ``jax.lax.scan``, ``vmap`` or ``grad`` of a function that closes over the model, and
evaluating a model twice would give two results. The data need no state. The same call repeated
draws the same bits, and so does the recomputation of ``jax.checkpoint``; it works in any
transformation.

The fingerprint is a weighted sum, modulo 2**32, of the upper 12 bits (sign, exponent, 3 bits of
mantissa) of at most 256 float32 values, evenly spaced in x. Coarse on purpose: an input whose last
bits differ, because it was computed in another order (in a lane of ``vmap``, on several devices),
has the same fingerprint but for about one call in a thousand. Then the bits are others, as good.

Calls whose inputs agree in all these values share their bits. What they round of x and w is nearly
equal then, too; only their gradients may differ.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, sharding
from fp4jax.core.typing import Array, ArrayLike, Integer, Shaped
from fp4jax.ops.role_keys import RoleKeys

#: Values of x that the fingerprint sees, at most.
SAMPLES = 256


def keys_of_call(keys: RoleKeys, x: Shaped[ArrayLike, "..."]) -> RoleKeys:
    """The keys of a layer's call on ``x``.

    Example:
        >>> import jax
        >>> from fp4jax.ops.role_keys import role_keys
        >>> keys, x = role_keys(jax.random.key(0)), jnp.arange(32.0)
        >>> same, other = keys_of_call(keys, x), keys_of_call(keys, x[::-1])
        >>> bool(same.call == keys_of_call(keys, x).call), bool(same.call == other.call)
        (True, False)
    """
    x = jnp.asarray(x)
    if not x.size:
        return keys
    out = sharding.replicated() if sharding.explicit_mesh() else None
    return keys.differing(sharding.automatic(_fingerprint, out)(lax.stop_gradient(x)))


def _fingerprint(x: Shaped[Array, "..."]) -> Integer[Array, ""]:
    samples = lax.slice(x, (0,) * x.ndim, x.shape, _strides(x.shape)).astype(jnp.float32)
    upper = exact.bits(samples.reshape(-1)) >> 20
    # Odd weights: a difference in any one value changes the sum.
    weights = np.random.default_rng(0).integers(0, 2**31, samples.size, np.int32) * 2 + 1
    return (upper * weights).sum(dtype=jnp.int32).astype(jnp.uint32)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps along each axis that leave at most :data:`SAMPLES` values; long axes are thinned."""
    left, strides = list(shape), [1] * len(shape)
    while np.prod(left, dtype=np.int64) > SAMPLES:
        longest = left.index(max(left))
        strides[longest] *= 2
        left[longest] = -(-shape[longest] // strides[longest])
    return tuple(strides)
