"""decode: packed models whose weights are decoded once."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx, packed, predict
from tests.checks import relative_error
from tests.nnx.test_packing import (
    LAYERS,
    RECIPES,
    SMALL,
    TOLERANCE,
    apply,
    forward,
    id_of,
    linear,
    quietly,
    trained,
    x_of,
)

#: One of each way in which a packed kernel enters its product.
FEW = (
    "linear_general, batch axis",
    "conv, patches",
    "conv, groups, many positions",
    "conv_transpose, circular, mask",
)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param(name, recipe, marks=() if name in FEW else pytest.mark.slow)
        for name, recipe in zip(LAYERS, itertools.cycle(RECIPES), strict=False)
        if name != "attention"
    ],
    ids=id_of,
)
def test_a_decoded_layer_is_the_packed_one(name, recipe):
    make, shape = LAYERS[name]
    small, x = quietly(apply(make(rngs=nnx.Rngs(0)), recipe)), x_of(*shape)
    expected, actual = forward(small, x), forward(fp4nnx.decode(small), x)
    assert actual.dtype == expected.dtype
    assert relative_error(actual, expected) < TOLERANCE


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_are_exact_in_both_dtypes(dtype):
    small = quietly(linear("2d+rht"))
    before = packed.size(small)
    large = fp4nnx.decode(small, dtype=dtype)
    values = large.kernel.decoded.get_value()
    rotated = small.kernel.values.dequantize(rotated=True).T / small.kernel.values.tensor_scale
    np.testing.assert_allclose(values.astype(jnp.float32), rotated, rtol=1e-6)
    after = packed.size(large)
    assert (after.layers, after.weights) == (before.layers, before.weights)
    assert after.weight_bytes == before.weights * jnp.dtype(dtype).itemsize + 4
    x = x_of(3, 32)
    assert relative_error(forward(large, x), forward(small, x)) < TOLERANCE


def test_a_model_reads_no_codes():
    model, x = trained("cnn", 5, image_size=32, **SMALL["cnn"]), x_of(1, 32, 32, 3)
    small = quietly(model)
    large = fp4nnx.decode(small)
    assert relative_error(forward(large, x), forward(small, x)) < TOLERANCE
    texts = [
        jax.jit(functools.partial(lambda graph, state, x: nnx.merge(graph, state)(x), graph))
        .lower(state, x)
        .as_text()
        for graph, state in map(nnx.split, (small, large))
    ]
    assert ["xui8>" in text for text in texts] == [True, False]


def test_stacks():
    make = functools.partial(nnx.Linear, 16, 8)
    stack = nnx.vmap(lambda rngs: make(rngs=rngs))(nnx.Rngs(0).split(3))
    small, x = quietly(apply(stack, "full")), x_of(3, 2, 16)
    call = nnx.vmap(lambda layer, x: layer(x))
    large = fp4nnx.decode(small)
    assert relative_error(call(large, x), call(small, x)) < TOLERANCE
    assert packed.size(large).weights == packed.size(small).weights == 3 * 16 * 8


def test_gradients():
    small, x = quietly(linear("full")), x_of(3, 32)
    large = fp4nnx.decode(small)

    def loss(model, x):
        return jnp.sum(model(x) ** 2)

    expected, actual = (jax.grad(functools.partial(loss, model))(x) for model in (small, large))
    assert relative_error(actual, expected) < TOLERANCE
    graph, state = nnx.split(large)
    with pytest.raises(ValueError, match="packed weights cannot be trained"):
        jax.grad(lambda state: loss(nnx.merge(graph, state), x))(state)


def test_refusals(tmp_path):
    small = quietly(linear("full"))
    large = fp4nnx.decode(small)
    with pytest.raises(ValueError, match="is decoded already"):
        fp4nnx.decode(large)
    with pytest.raises(ValueError, match="Linear is not packed; decode what"):
        fp4nnx.decode(linear("full"))
    with pytest.raises(ValueError, match="float16; weights decode to bfloat16 or float32"):
        fp4nnx.decode(small, dtype=jnp.float16)
    about = predict.About("cnn", "500k", image_size=32)
    for use in (
        functools.partial(fp4nnx.save_packed, tmp_path / "m.safetensors"),
        fp4nnx.unpack,
        functools.partial(deploy.Subject, about=about),
    ):
        with pytest.raises(ValueError, match=r"was decoded by .*; give the packed model"):
            use(large)
    assert not list(tmp_path.iterdir())
