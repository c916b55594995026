"""From a ``jax.random`` key to the two words that seed the random bits of an operand.

An operand's seed is ``jax.random.bits(jax.random.fold_in(key, n), (2,))``. JAX evaluates each of
the two as a loop of eight kernels on CPU; a training step has some hundreds of them, which take as
long to compile as the quantizers. Here they are written out for many keys at once, with the same
results: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011). Keys of other generators go through ``jax.random``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array, Integer

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Seed(NamedTuple):
    """Two uint32 for each operand, ``words`` (*operands, 2)."""

    words: Integer[Array, "*operands 2"]


def fold_in(key: Array, numbers: Integer[Array, " n"]) -> Array:
    """``jax.random.fold_in`` of one key, or one of n, and each of n numbers: n typed keys.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> keys = fold_in(jax.random.key(7), jnp.arange(3))
        >>> bool((keys[2] == jax.random.fold_in(jax.random.key(7), 2)).all())
        True
    """
    key = _typed(key)
    numbers = jnp.asarray(numbers).astype(jnp.uint32)
    if not _is_threefry(key):
        return jax.vmap(jax.random.fold_in, in_axes=(0 if key.ndim else None, 0))(key, numbers)
    data = jax.random.key_data(key)
    folded = _threefry(data[..., 0], data[..., 1], jnp.zeros_like(numbers), numbers)
    return jax.random.wrap_key_data(jnp.stack(folded, -1))


def seed(key: Array | Seed) -> Seed:
    """``jax.random.bits(key, (2,))`` of a key or of each of n keys; a Seed as it is.

    Example:
        >>> import jax
        >>> key = jax.random.key(7)
        >>> bool((seed(key).words == jax.random.bits(key, (2,))).all())
        True
    """
    if isinstance(key, Seed):
        return key
    key = _typed(key)
    if not (_is_threefry(key) and jax.config.jax_threefry_partitionable):  # pyright: ignore
        draw = lambda k: jax.random.bits(k, (2,), jnp.uint32)  # noqa: E731
        return Seed(jax.vmap(draw)(key) if key.ndim else draw(key))
    data = jax.random.key_data(key)[..., None]
    counter = jnp.broadcast_to(jnp.arange(2, dtype=jnp.uint32), (*key.shape, 2))
    high, low = _threefry(data[..., 0, :], data[..., 1, :], jnp.zeros_like(counter), counter)
    return Seed(high ^ low)


def _typed(key: Array) -> Array:
    """A raw key as a typed one."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _is_threefry(key: Array) -> bool:
    return str(jax.random.key_impl(key)) in ("threefry2x32", "fry")


def _threefry(k0: Array, k1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of the counter (x0, x1) under the key (k0, k1), elementwise."""
    shape = jnp.broadcast_shapes(k0.shape, x0.shape)
    k0, k1, x0, x1 = (jnp.broadcast_to(a, shape) for a in (k0, k1, x0, x1))
    keys = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = x0 + k0, x1 + k1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
