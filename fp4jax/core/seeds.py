"""From a ``jax.random`` key to the two words that seed the random bits of an operand.

An operand's seed is ``jax.random.bits(jax.random.fold_in(key, n), (2,))``. JAX evaluates each of
the two as a loop of eight kernels on CPU; a training step has some hundreds of them, which take as
long to compile as the quantizers. Here they are written out for many keys at once, with the same
results: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011). Keys of other generators go through ``jax.random``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.typing import Array, ArrayLike, Integer

#: A mapped axis of ``vmap`` or ``shard_map``, or several, or None.
AxisName = str | tuple[str, ...] | None

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Seed(NamedTuple):
    """Two uint32 for each operand, ``words`` (*operands, 2)."""

    words: Integer[Array, "*operands 2"]

    def apart(self, word: Integer[Array, ""] | None) -> "Seed":
        """The seed of other bits for each uint32 ``word``; None and 0 change nothing."""
        if word is None:
            return self
        first, second = self.words[..., 0], self.words[..., 1]
        return Seed(jnp.stack([first, second + word], -1))


def shard_word(
    key: Array, *operands: Array, axis_name: AxisName = None
) -> Integer[Array, ""] | None:
    """A uint32 of its own for each shard of a ``shard_map``; None outside of one.

    Shards that hold parts of an array would round them with the same bits if they hold the same
    key. The word numbers the shards along the axes over which an operand is known to vary and the
    key is not (with ``check_vma=False`` nothing is known: fold ``jax.lax.axis_index`` into the key
    there). Along the mapped axes of ``axis_name`` it numbers them in any case.
    """
    named = () if axis_name is None else (axis_name,) if isinstance(axis_name, str) else axis_name
    varies = frozenset(named).union(*(sharding.varying_axes(x) for x in operands))
    word = None
    for axis in sorted((varies - sharding.varying_axes(key)) | frozenset(named)):
        index = lax.axis_index(axis).astype(jnp.uint32)
        word = index if word is None else word * np.uint32(lax.axis_size(axis)) + index
    # Far apart for neighbours, so that the words of shards and of calls can be added.
    return None if word is None else word * np.uint32(0x9E3779B9)


def fold_in(key: Array, numbers: Integer[ArrayLike, " n"]) -> Array:
    """``jax.random.fold_in`` of a key, or each of several, and each of n numbers: (*keys, n) keys.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> keys = fold_in(jax.random.key(7), jnp.arange(3))
        >>> bool((keys[2] == jax.random.fold_in(jax.random.key(7), 2)).all())
        True
    """
    key = _typed(key)
    numbers = jnp.asarray(numbers).astype(jnp.uint32)
    if not _is_threefry(key):
        return _for_each(key, lambda k: lax.map(lambda n: jax.random.fold_in(k, n), numbers))
    data = jax.random.key_data(key)[..., None]
    counter = jnp.broadcast_to(numbers, (*key.shape, *numbers.shape))
    folded = _threefry(data[..., 0, :], data[..., 1, :], jnp.zeros_like(counter), counter)
    return jax.random.wrap_key_data(jnp.stack(folded, -1), impl=jax.random.key_impl(key))


def seed(key: Array | Seed) -> Seed:
    """``jax.random.bits(key, (2,))`` of a key or of each of several; a Seed as it is.

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
        return Seed(_for_each(key, lambda k: jax.random.bits(k, (2,), jnp.uint32)))
    data = jax.random.key_data(key)[..., None]
    counter = jnp.broadcast_to(jnp.arange(2, dtype=jnp.uint32), (*key.shape, 2))
    high, low = _threefry(data[..., 0, :], data[..., 1, :], jnp.zeros_like(counter), counter)
    return Seed(high ^ low)


def _for_each(keys: Array, function: Callable[[Array], Array]) -> Array:
    """Of one key after the other: some generators draw other bits under ``vmap``."""
    for _ in range(keys.ndim):
        function = functools.partial(lax.map, function)
    return function(keys)


def _typed(key: Array) -> Array:
    """A raw key as a typed one."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _is_threefry(key: Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


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
