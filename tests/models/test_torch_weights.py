"""Weights in PyTorch's names and layouts, there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import models
from fp4jax.models.layers import Downsample, Upsample, channels_to_space, space_to_channels
from tests.samples import normal


def test_patches_are_convolutions():
    rngs = nnx.Rngs(0)
    x = normal(0, 2, 8, 12, 3)
    down, conv = (
        Downsample(3, 8, patch=4, rngs=rngs),
        nnx.Conv(3, 8, (4, 4), 4, padding="VALID", rngs=rngs),
    )
    models.load_torch(conv, models.to_torch(down))
    both = jax.jit(lambda x: (down(space_to_channels(x, 4)), conv(x)))
    np.testing.assert_allclose(*both(x), atol=1e-6)
    up, transposed = (
        Upsample(3, 5, patch=2, bias_init=nnx.initializers.normal(), rngs=rngs),
        nnx.ConvTranspose(3, 5, (2, 2), (2, 2), padding="VALID", rngs=rngs),
    )
    models.load_torch(transposed, models.to_torch(up))
    np.testing.assert_allclose(*jax.jit(lambda x: (up(x), transposed(x)))(x), atol=1e-6)
    np.testing.assert_array_equal(channels_to_space(space_to_channels(x, 4), 4), x)


def test_torch_names_of_a_model_whose_paths_differ():
    class Net(nnx.Module):
        torch_names = ((r"^layers\.(\d+)\.", r"model.\1.conv."),)

        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 3, use_bias=False, rngs=rngs)])

    weights = {"model.0.conv.weight": np.ones((3, 2), np.float32)}
    model = models.load_torch(Net(nnx.Rngs(0)), weights)
    assert models.to_torch(model).keys() == weights.keys()
    assert (model.layers[0].kernel[...] == 1).all()


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("taps", [(3,), (4, 3), (2, 2, 2)])
def test_torch_weights_of_transposed_convolutions(taps, transpose_kernel):
    layer = nnx.ConvTranspose(
        2, 3, taps, (2,) * len(taps), padding="VALID", transpose_kernel=transpose_kernel,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    weight = np.random.default_rng(0).normal(size=(2, 3, *taps)).astype(np.float32)
    models.load_torch(layer, {"weight": weight, "bias": np.zeros(3, np.float32)})
    # A single pixel leaves its kernel behind.
    x = jnp.zeros((1,) * (len(taps) + 1) + (2,)).at[..., 1].set(1)
    np.testing.assert_allclose(np.moveaxis(np.asarray(layer(x))[0], -1, 0), weight[1], atol=1e-6)
