"""Packed convolutions of inputs that have no images, or a single pixel: as before packing."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import nnx as fp4nnx

LAYERS = {
    "conv": functools.partial(nnx.Conv, 20, 16, (3, 3)),
    "strided": functools.partial(nnx.Conv, 20, 16, (2, 2), strides=2, padding="VALID"),
    "groups": functools.partial(nnx.Conv, 40, 16, (3, 3), feature_group_count=2),
    "input dilation": functools.partial(
        nnx.Conv, 20, 16, (3, 3), input_dilation=2, padding=((1, 1), (1, 1))
    ),
    "transposed": functools.partial(nnx.ConvTranspose, 20, 16, (4, 4), strides=(2, 2)),
    "one tap": functools.partial(nnx.ConvTranspose, 20, 16, (2, 2), strides=(2, 2)),
}


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 1, 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_small_inputs(name, shape):
    layer = LAYERS[name](rngs=nnx.Rngs(0))
    fp4nnx.apply_recipe(layer, "full", verbose=False)
    x = jnp.ones((*shape, layer.in_features))
    expected = layer(x)
    packed = fp4nnx.pack(layer, verbose=False)
    y = packed(x)
    assert y.shape == expected.shape
    if y.size and x.size:
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
