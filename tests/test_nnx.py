"""The NNX adapters: Flax's layers with the baseline, what is quantized, and rounding keys."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import lax

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.nnx import RoundingKey, apply_recipe, refresh_keys, report
from tests.checks import relative_error
from tests.samples import assert_same_bits, sample

# float32 sums in another order; the gradient's own sums too
TOLERANCE = 5e-6

apply = functools.partial(apply_recipe, verbose=False)


MASK = np.random.default_rng(0).integers(0, 2, (3, 20, 18)).astype(np.float32)

# constructor, input shape
LAYERS = {
    "linear": (functools.partial(nnx.Linear, 20, 18), (3, 20)),
    "linear, no bias, no batch": (functools.partial(nnx.Linear, 20, 18, use_bias=False), (20,)),
    "linear, batches": (functools.partial(nnx.Linear, 20, 18), (2, 3, 2, 20)),
    "linear_general": (
        functools.partial(nnx.LinearGeneral, (5, 4), (3, 7), axis=(1, -1)),
        (2, 5, 3, 4),
    ),
    "linear_general, batch axis": (
        functools.partial(nnx.LinearGeneral, 20, 18, batch_axis={0: 2}),
        (2, 3, 20),
    ),
    "conv": (functools.partial(nnx.Conv, 20, 18, (3, 3)), (2, 5, 4, 20)),
    "conv, strides": (functools.partial(nnx.Conv, 20, 18, (4, 4), 2, padding=1), (2, 6, 8, 20)),
    "conv, circular": (
        functools.partial(nnx.Conv, 20, 18, (3, 2), padding="CIRCULAR"),
        (2, 5, 4, 20),
    ),
    "conv, reflect": (functools.partial(nnx.Conv, 20, 18, (3,), padding="REFLECT"), (2, 5, 20)),
    "conv, causal, dilated": (
        functools.partial(nnx.Conv, 20, 18, 3, padding="CAUSAL", kernel_dilation=2),
        (2, 7, 20),
    ),
    "conv, groups, 3d": (
        functools.partial(nnx.Conv, 20, 18, (2, 3, 2), feature_group_count=2, padding="VALID"),
        (2, 3, 4, 3, 20),
    ),
    "conv, mask, no bias": (
        functools.partial(nnx.Conv, 20, 18, (3,), mask=MASK, use_bias=False),
        (2, 5, 20),
    ),
    "conv, batches": (functools.partial(nnx.Conv, 20, 18, (3,)), (2, 3, 5, 20)),
    "conv, no batch": (
        functools.partial(nnx.Conv, 20, 18, (3,), input_dilation=2, padding=1),
        (5, 20),
    ),
    "conv_transpose": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4, 4), (2, 2)),
        (2, 3, 4, 20),
    ),
    "conv_transpose, valid": (
        functools.partial(nnx.ConvTranspose, 20, 18, (3, 2), 2, padding="VALID"),
        (2, 3, 4, 20),
    ),
    "conv_transpose, one integer": (functools.partial(nnx.ConvTranspose, 20, 18, 3), (2, 5, 20)),
    "conv_transpose, explicit, dilated": (
        functools.partial(
            nnx.ConvTranspose, 20, 18, (3, 2), (2, 1), padding=((1, 2), (0, 1)), kernel_dilation=2
        ),
        (2, 3, 4, 20),
    ),
    "conv_transpose, 3d": (
        functools.partial(nnx.ConvTranspose, 20, 18, (2, 3, 2), 2, padding=1),
        (1, 2, 3, 2, 20),
    ),
    "conv_transpose, mask, no bias": (
        functools.partial(nnx.ConvTranspose, 20, 18, (3,), mask=MASK, use_bias=False),
        (2, 5, 20),
    ),
    "conv_transpose, batches": (functools.partial(nnx.ConvTranspose, 20, 18, (3,)), (2, 3, 5, 20)),
    "conv_transpose, no batch": (functools.partial(nnx.ConvTranspose, 20, 18, (3,), 2), (5, 20)),
    **{
        f"conv_transpose, circular {kernel}, strides {strides}, {flip=}": (
            functools.partial(
                nnx.ConvTranspose,
                20,
                18,
                kernel,
                strides,
                padding="CIRCULAR",
                transpose_kernel=flip,
            ),
            (2, 5, 4, 20),
        )
        for flip in (False, True)
        for kernel, strides in (((4, 3), (2, 1)), ((2, 5), (3, 2)), ((3, 9), (1, 2)))
    },
    "conv_transpose, same, flip": (
        functools.partial(nnx.ConvTranspose, 20, 18, (4,), 2, transpose_kernel=True),
        (2, 5, 20),
    ),
    "attention": (functools.partial(nnx.MultiHeadAttention, 2, 20, decode=False), (2, 5, 20)),
}


def outputs(model: nnx.Module, x):
    """The model's output, and the gradients of its parameters and input for a fixed cotangent."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, x):
        y, vjp = jax.vjp(lambda params, x: nnx.merge(graphdef, params, rest)(x), params, x)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return run(params, x)


def assert_same(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_array_less(_error(a, b), TOLERANCE), ours, theirs)


def _error(a, b):
    assert a.dtype == b.dtype
    return relative_error(a, b)


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_baseline_is_flax(make, shape):
    """Outputs and gradients are Flax's; those of a recipe are not, and have the same shapes."""
    layer, x = make(rngs=nnx.Rngs(0)), jnp.asarray(sample("normal", shape))
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias.set_value(jnp.ones_like(bias.get_value()))
    theirs = outputs(layer, x)
    before = nnx.state(layer, nnx.Param)
    assert apply(layer, "baseline") is layer
    assert_same(outputs(layer, x), theirs)
    quantized = outputs(apply(layer, "full"), x)
    assert jax.tree.map(jnp.shape, quantized) == jax.tree.map(jnp.shape, theirs)
    assert _error(quantized[0], theirs[0]) > 0.01
    jax.tree.map(assert_same_bits, nnx.state(layer, nnx.Param), before)
