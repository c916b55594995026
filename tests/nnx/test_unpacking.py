"""unpack: the values that codes stand for, in each layer's own kernel."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import nnx as fp4nnx
from fp4jax.nnx.slots import layers
from tests.nnx.test_decode_packed_file import LAYERS, decode, read
from tests.nnx.test_packing import W4A16, apply, quietly


@pytest.mark.parametrize("name", ["LinearGeneral", "Conv, groups", "ConvTranspose, flipped"])
def test_kernels_are_those_of_the_file(name, tmp_path):
    recipe = "forward_only+rht" if name == "LinearGeneral" else "2d+rht"
    packed = quietly(apply(LAYERS[name](rngs=nnx.Rngs(0)), recipe))
    arrays, records, _ = read(fp4nnx.save_packed(tmp_path / "m.safetensors", packed))
    plain = fp4nnx.unpack(packed)
    kernel = np.asarray(plain.kernel[...])
    np.testing.assert_allclose(kernel, decode(arrays, "", records[""]), rtol=0, atol=1e-6)
    assert not any(layer.operation for layer in layers(plain))
    with pytest.raises(ValueError, match="is not packed"):
        fp4nnx.unpack(plain)


def test_outputs_where_activations_are_not_quantized():
    packed = quietly(apply(nnx.Linear(20, 18, rngs=nnx.Rngs(0)), W4A16))
    plain = fp4nnx.unpack(packed)
    x = jnp.ones((2, 20))
    np.testing.assert_allclose(plain(x), packed(x), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_stacks():
    make = functools.partial(nnx.Linear, 16, 8)
    stack = nnx.vmap(lambda rngs: make(rngs=rngs))(nnx.Rngs(0).split(3))
    kernel = np.asarray(stack.kernel[...])
    plain = fp4nnx.unpack(quietly(apply(stack, "full")))
    assert plain.kernel[...].shape == (3, 16, 8)
    for one, original in zip(np.asarray(plain.kernel[...]), kernel, strict=True):
        assert np.abs(one - original).max() < 0.2 * np.abs(original).max()
