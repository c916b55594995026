"""Seeds of dropout layers: what they are, and that their number does not make compiling slow."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core.rounding import hash_counter
from fp4jax.models.dropout import Seeds
from tests.fusions import distinct_kernels
from tests.samples import assert_same_bits

COUNT = 5


def draw(key: jax.Array) -> list[jax.Array]:
    seeds = Seeds(nnx.Rngs(dropout=key))
    return [next(seeds) for _ in range(COUNT)]


def test_seeds_are_the_hashed_root():
    key = jax.random.key(3)
    root = jax.random.bits(nnx.Rngs(dropout=key).dropout(), (2,), jnp.uint32)
    for n, seed in enumerate(draw(key), 1):
        words = jnp.asarray(np.array([2 * n, 2 * n + 1], np.uint32))
        assert_same_bits(seed, hash_counter(words, root))


def test_seeds_share_a_kernel():
    """With one for each a Swin 500k's baseline had 58 kernels more to compile."""
    root = jnp.asarray([3, 5], jnp.uint32)

    def seeds_of(root: jax.Array) -> list[jax.Array]:
        seeds = Seeds(None)
        seeds._root = root
        return [next(seeds) for _ in range(COUNT)]

    # XLA may name the two operands in either order.
    assert distinct_kernels(seeds_of, root) <= 2
