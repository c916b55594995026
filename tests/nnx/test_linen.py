"""The Linen adapters: Flax's layers with the baseline, and a stream of random bits for the rest."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, linen

import fp4jax as fp4
from fp4jax.linen import (
    Attention,
    ConvGeneralDilated,
    ConvTranspose,
    ConvTransposeOp,
    DotGeneral,
    Einsum,
    EinsumOp,
)
from tests.checks import assert_same_sums, relative_error
from tests.samples import assert_same_bits, sample

TOLERANCE = 5e-6


def dense(recipe=None) -> linen.Dense:
    op = None if recipe is None else functools.partial(DotGeneral, recipe=recipe)
    return linen.Dense(18, dot_general_cls=op)


def conv(recipe=None) -> linen.Conv:
    op = None if recipe is None else functools.partial(ConvGeneralDilated, recipe=recipe)
    return linen.Conv(18, (3, 2), strides=2, conv_general_dilated_cls=op)


LAYERS = {"dense": (dense, (3, 7, 20)), "conv": (conv, (2, 5, 6, 20))}
layers = pytest.mark.parametrize("name", LAYERS)


def gradients(layer, x, seed=None):
    """Output, and gradients of the parameters and the input for a fixed cotangent."""
    rngs = {} if seed is None else {"rounding": jax.random.key(seed)}
    params = parameters(x, type(layer))

    def run(params, x):
        y, vjp = jax.vjp(lambda params, x: layer.apply(params, x, rngs=rngs), params, x)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    return jax.jit(run)(params, x)


def parameters(x, kind):
    plain = dense() if kind is linen.Dense else conv()
    return plain.init(jax.random.key(0), x)


def case(name):
    make, shape = LAYERS[name]
    return make, jnp.asarray(sample("normal", shape))


@layers
def test_baseline_is_flax(name):
    make, x = case(name)
    ours, theirs = gradients(make("baseline"), x), gradients(make(), x)
    assert max(jax.tree.leaves(jax.tree.map(relative_error, ours, theirs))) < TOLERANCE


@layers
@pytest.mark.parametrize("recipe", [1, "full", fp4.get_recipe("full")])
def test_recipes(name, recipe):
    """By id, name or value; without random bits they need no RNG."""
    make, x = case(name)
    y, dparams, dx = gradients(make(recipe), x)
    exact = gradients(make(), x)
    for ours, theirs in zip(*map(jax.tree.leaves, ((y, dx), (exact[0], exact[2]))), strict=True):
        assert 0.01 < relative_error(ours, theirs) < 0.5
    kernels = dparams["params"]["kernel"], exact[1]["params"]["kernel"]
    assert 0.01 < relative_error(*kernels) < 0.5


@layers
def test_it_is_the_function(name):
    """The result of fp4jax's function with the same arguments."""
    make, x = case(name)
    params = parameters(x, type(make()))
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    if name == "dense":
        y = fp4.dot_general(x, kernel, (((2,), (0,)), ((), ())), recipe="full")
    else:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = fp4.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=numbers, recipe="full"
        )
    assert_same_sums(make("full").apply(params, x), y + bias.reshape((1,) * (y.ndim - 1) + (-1,)))


@layers
def test_random_bits_come_from_the_stream(name):
    """One key of "rounding" decides them, and nothing else does."""
    make, x = case(name)
    first, again, other = (gradients(make("2d+rht+sr"), x, seed) for seed in (0, 0, 1))
    jax.tree.map(assert_same_bits, first, again)
    # stochastic rounding is for gradients only
    assert_same_bits(first[0], other[0])
    assert relative_error(first[2], other[2]) > 0.001
    assert relative_error(first[1]["params"]["kernel"], other[1]["params"]["kernel"]) > 0.001


def test_layers_of_one_model_draw_different_bits():
    class Twice(linen.Module):
        @linen.compact
        def __call__(self, x):
            op = functools.partial(DotGeneral, recipe=STOCHASTIC)
            make = functools.partial(linen.Dense, 18, dot_general_cls=op)
            kernel = np.random.default_rng(0).standard_normal((20, 18)).astype(np.float32)
            init = lambda key, shape, dtype: jnp.asarray(kernel)  # noqa: E731
            return make(kernel_init=init)(x), make(kernel_init=init)(x)

    spec = fp4.TensorSpec(rounding="stochastic")
    STOCHASTIC = fp4.Recipe(name="forward", fprop=(spec, spec))
    _, x = case("dense")
    keys = {"params": jax.random.key(0), "rounding": jax.random.key(1)}
    (a, b), variables = Twice().init_with_output(keys, x)
    assert (a != b).any()
    again = Twice().apply(variables, x, rngs={"rounding": jax.random.key(1)})
    assert again[0].shape == a.shape
    # the adapters add no parameters
    assert set(variables) == {"params"}
    assert set(variables["params"]["Dense_0"]) == {"kernel", "bias"}


@layers
def test_without_a_stream_there_is_the_forward_pass_alone(name):
    make, x = case(name)
    layer, params = make("2d+rht+sr"), parameters(x, type(make()))
    evaluated = layer.apply(params, x)
    assert_same_bits(evaluated, layer.apply(params, x, rngs={"rounding": jax.random.key(7)}))
    with pytest.raises(ValueError, match=r"rounds gradients .* pass rngs="):
        jax.grad(lambda params: layer.apply(params, x).sum())(params)


def test_stochastic_activations_need_the_stream():
    recipe = dataclasses.replace(
        fp4.get_recipe("forward_only"),
        name="stochastic_x",
        fprop=(fp4.TensorSpec(rounding="stochastic"), fp4.TensorSpec()),
    )
    _, x = case("dense")
    with pytest.raises(errors.InvalidRngError, match="rounding"):
        dense(recipe).apply(parameters(x, linen.Dense), x)


def test_unknown_recipe():
    _, x = case("dense")
    with pytest.raises(ValueError, match="no recipe 'nvfp4'; known names: "):
        dense("nvfp4").init(jax.random.key(0), x)


def test_static_amax():
    static = fp4.TensorSpec(amax="static")
    recipe = fp4.Recipe(name="static", fprop=(static, fp4.TensorSpec()))
    x, w = sample("normal", (3, 20)), sample("normal", (20, 8))
    dot = DotGeneral(recipe=recipe, amax={"fprop.x": 3.0})
    dims = (((1,), (0,)), ((), ()))
    expected = fp4.dot_general(x, w, dims, recipe=recipe, amax={"fprop.x": 3.0})
    assert_same_bits(dot.apply({}, x, w, dims), expected)
    with pytest.raises(ValueError, match=r"needs amax of fprop\.x"):
        DotGeneral(recipe=recipe).apply({}, x, w, dims)


def einsum(recipe=None) -> linen.Einsum:
    op = None if recipe is None else functools.partial(EinsumOp, recipe=recipe)
    return Einsum((20, 3, 6), "...i,ihd->...hd", einsum_cls=op)


def transposed(recipe=None, **options) -> linen.ConvTranspose:
    op = None if recipe is None else functools.partial(ConvTransposeOp, recipe=recipe)
    return ConvTranspose(18, (3, 2), (2, 1), conv_transpose_cls=op, **options)


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (einsum, linen.Einsum((20, 3, 6), "...i,ihd->...hd"), (2, 5, 20)),
        (transposed, linen.ConvTranspose(18, (3, 2), (2, 1)), (2, 5, 6, 20)),
        (
            functools.partial(transposed, padding="CIRCULAR", transpose_kernel=True),
            linen.ConvTranspose(18, (3, 2), (2, 1), padding="CIRCULAR", transpose_kernel=True),
            (5, 6, 20),
        ),
    ],
    ids=["einsum", "transposed", "circular"],
)
def test_layers_with_slots_of_their_own(ours, theirs, shape):
    """Linen's parameters and result; under a recipe the one of fp4jax's function."""
    x = jnp.asarray(sample("normal", shape))
    expected, variables = theirs.init_with_output(jax.random.key(0), x)
    again = ours().init(jax.random.key(0), x)
    jax.tree.map(assert_same_bits, again, variables)
    assert relative_error(ours().apply(variables, x), expected) < TOLERANCE
    assert relative_error(ours("baseline").apply(variables, x), expected) < TOLERANCE
    assert 0.01 < relative_error(ours("full").apply(variables, x), expected) < 0.5


def test_attention():
    x = jnp.asarray(sample("normal", (2, 5, 16)))
    plain = linen.MultiHeadDotProductAttention(num_heads=2)
    expected, variables = plain.init_with_output(jax.random.key(0), x)
    exact = fp4.AttentionRecipe(name="exact")
    attend = lambda recipe: plain.clone(attention_fn=Attention(recipe=recipe))  # noqa: E731
    mask = jnp.arange(5)[None, None, None] < 4
    assert relative_error(attend(exact).apply(variables, x), expected) < TOLERANCE
    masked = plain.apply(variables, x, mask=mask)
    assert relative_error(attend(exact).apply(variables, x, mask=mask), masked) < TOLERANCE
    assert 0.001 < relative_error(attend("attention_qat").apply(variables, x), expected) < 0.5
    assert attend("attention_sr").apply(variables, x).shape == x.shape
    with pytest.raises(ValueError, match="rounds gradients"):
        jax.grad(lambda x: attend("attention_sr").apply(variables, x).sum())(x)
