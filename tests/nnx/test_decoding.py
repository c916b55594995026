"""decode: packed models whose weights are decoded once."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx, packed, predict
from fp4jax.nnx.slots import layers
from tests.checks import relative_error
from tests.nnx.test_packing import (
    LAYERS,
    RECIPES,
    SMALL,
    TOLERANCE,
    W4A16,
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
    for model in (small, large):
        assert {layer.stack for layer in layers(model)} == {(3,)}
        assert fp4nnx.report(model).summary.startswith("full: set on 1 of 1 layers, 94.1% of 408 ")


def test_a_static_amax_of_a_stack_is_put_back():
    make = functools.partial(nnx.Linear, 16, 8)
    stack = nnx.vmap(lambda rngs: make(rngs=rngs))(nnx.Rngs(0).split(3))
    apply(stack, "full")
    fp4nnx.set_static_amaxes(stack, {"": np.array([1.0, 2.0, 3.0], np.float32)})
    small = quietly(stack)
    for model in (small, fp4nnx.decode(small)):
        held = fp4nnx.static_amaxes(model)
        fp4nnx.set_static_amaxes(model, held)
        np.testing.assert_array_equal(
            *(jax.tree.leaves(m) for m in (held, fp4nnx.static_amaxes(model)))
        )


def test_the_report_says_what_lies_in_memory():
    small, x = quietly(linear("full")), x_of(2, 32)
    models = small, fp4nnx.decode(small), fp4nnx.decode(small, dtype=jnp.bfloat16)
    of_codes, of_float32, of_bfloat16 = (fp4nnx.report(m, x).products[0].bytes for m in models)
    weights = 32 * 24
    assert of_float32 - of_codes == 4 * weights - (weights // 2 + weights // 16)
    assert of_float32 - of_bfloat16 == 2 * weights


@pytest.mark.parametrize("name", ["linear", "conv 1 x 1", "conv_transpose, no overlap"])
def test_products_are_as_exact_as_those_of_codes(name):
    """On GPUs, where the default precision of float32 is TF32."""
    make, shape = LAYERS[name]
    small, x = quietly(apply(make(rngs=nnx.Rngs(0)), W4A16)), x_of(*shape)
    graph, state = nnx.split(fp4nnx.decode(small))
    call = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    text = call.trace(state, x).lower(lowering_platforms=("cuda",)).as_text()
    products = [
        line for line in text.splitlines() if "dot_general" in line or "convolution(" in line
    ]
    assert products
    assert all("HIGHEST" in line for line in products)


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
    with pytest.raises(ValueError, match="Linear is not packed; decode what"):
        fp4nnx.decode(linear("full"))
    with pytest.raises(ValueError, match=r"float16.*; weights decode to bfloat16 or float32"):
        fp4nnx.decode(small, dtype=jnp.float16)
    with pytest.raises(ValueError, match="dtype is 'foo'; weights decode to"):
        fp4nnx.decode(small, dtype="foo")
    shapes = nnx.eval_shape(lambda: quietly(linear("full")))
    with pytest.raises(ValueError, match="has shapes and no values; decode a packed model"):
        fp4nnx.decode(shapes)
    about = predict.About("cnn", "500k", image_size=32)
    for use in (
        functools.partial(fp4nnx.save_packed, tmp_path / "m.safetensors"),
        fp4nnx.decode,
        fp4nnx.unpack,
        functools.partial(fp4nnx.load_packed, tmp_path / "m.safetensors"),
        functools.partial(deploy.Subject, about=about),
    ):
        with pytest.raises(ValueError, match=r"was decoded by .*; give the packed model"):
            use(large)
    assert not list(tmp_path.iterdir())
