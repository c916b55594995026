"""What is multiplied before a quantizer stays so: XLA must not join its factors with the scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax.models.dropout import Dropout, DropPath, Seeds
from tests.samples import sample


@pytest.mark.parametrize("recipe", ["full", "sr"])
def test_blocks_of_zeros_behind_stochastic_depth(recipe):
    """A block of zeros has the largest multiplier; times 1 / (1 - rate) it would be infinite.

    A block of wgrad is an example here, so that both factors are broadcast over the same axes.
    """
    w = jnp.asarray(sample("normal", (192, 64)))
    x = jnp.asarray(sample("normal", (32, 16, 192), 1))
    g = jnp.asarray(sample("normal", (32, 16, 64), 2) * np.float32(1e-5))

    def layer(x, w):
        y = fp4.dot_general(x, w, (((2,), (0,)), ((), ())), recipe=recipe, key=jax.random.key(0))
        seeds = Seeds(nnx.Rngs(dropout=1))
        return DropPath(0.1)(Dropout(0.1)(y, seeds), seeds)

    for gradient in jax.jit(lambda x, w, g: jax.vjp(layer, x, w)[1](g))(x, w, g):
        assert jnp.isfinite(gradient).all()
