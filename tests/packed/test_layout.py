"""Kernels on the grid of their codes: the values that packed layers multiply."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax.core.spec import TensorSpec
from fp4jax.nnx.slots import layers
from fp4jax.packed.layout import Layout

LAYERS = {
    "linear": lambda rngs: nnx.Linear(20, 8, rngs=rngs),
    "general": lambda rngs: nnx.LinearGeneral((2, 20), (3, 4), axis=(1, -1), rngs=rngs),
    "grouped": lambda rngs: nnx.Conv(40, 8, (3,), feature_group_count=2, rngs=rngs),
    "flipped": lambda rngs: nnx.ConvTranspose(20, 8, (3,), transpose_kernel=True, rngs=rngs),
}
SPECS = {
    "blocks": TensorSpec(),
    "tiles": TensorSpec(block=(16, 16)),
    "rotated": TensorSpec(hadamard=True),
}


@pytest.mark.parametrize(
    ("layer", "spec"),
    [("linear", "tiles"), ("general", "blocks"), ("grouped", "tiles"), ("flipped", "rotated")],
)
def test_values_are_those_of_the_packed_matrix(layer, spec):
    module = LAYERS[layer](nnx.Rngs(0))
    (found,) = layers(module)
    layout, kernel = Layout.of(module, found.slot.name), module.kernel[...]
    on_grid = layout.on_grid(kernel, None, SPECS[spec], jnp.float32)
    assert on_grid.shape == kernel.shape
    # In another order, and without what fills up blocks.
    packed = layout.pack(kernel, None, SPECS[spec], jnp.float32).dequantize()
    found, expected = (np.abs(np.asarray(a)).ravel() for a in (on_grid, packed))
    found, expected = (np.sort(a[a > 1e-6]) for a in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_stack_and_a_mask():
    @nnx.vmap(in_axes=0)
    def stacked(key):
        return nnx.Linear(20, 8, rngs=nnx.Rngs(key))

    module = stacked(jax.random.split(jax.random.key(0), 2))
    kernel, mask = module.kernel[...], jnp.arange(160).reshape(20, 8) % 2
    found = Layout("dot_general", 2).on_grid(kernel, mask, TensorSpec(), jnp.float32)
    for one, whole in zip(found, kernel, strict=True):
        own = Layout("dot_general", 2).on_grid(whole, mask, TensorSpec(), jnp.float32)
        np.testing.assert_array_equal(one, own)
    assert (np.asarray(found)[:, np.asarray(mask) == 0] == 0).all()
