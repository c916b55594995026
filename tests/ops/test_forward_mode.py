"""Forward mode of quantized products: straight through the rounding, ``dx Q(w) + Q(x) dw``."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import models
from fp4jax.models.attend import attend
from fp4jax.nnx import apply_recipe
from tests.checks import SUMS, relative_error
from tests.ops.test_second_derivatives import OPS
from tests.samples import sample

#: Nothing but the forward pass is quantized: the gradient is the transpose of the tangent.
TRANSPOSED = "chain_rule"
STOCHASTIC = dataclasses.replace(
    fp4.get_recipe("full"),
    name="stochastic",
    fprop=(fp4.TensorSpec(rounding="stochastic"), fp4.TensorSpec(rounding="stochastic")),
)
# The rest differs in the backward pass alone.
ROTATED = "forward_only+rht"
RECIPES = ("full", "2d+rht+sr", ROTATED, "forward_only+4o6", "chain_rule")
FAST = (("full", "conv_transpose"), ("2d+rht+sr", "conv"), (ROTATED, "dot"))
tangent_of = lambda f, *args: jax.jvp(f, args[: len(args) // 2], args[len(args) // 2 :])[1]  # noqa: E731


def arrays(op):
    _, *shapes = OPS[op]
    return [jnp.asarray(sample("normal", shape, i)) for i, shape in enumerate((*shapes, *shapes))]


def expected(op, recipe, x, w, dx, dw):
    """Both terms: products of which one operand is quantized; of rotated ones in dots alone."""
    product, *_ = OPS[op]
    of_x, of_w = recipe.fprop
    if not of_x.hadamard:
        only = [
            fp4.Recipe(name=f"{recipe.name} {i}", fprop=specs)
            for i, specs in enumerate(((None, of_w), (of_x, None)))
        ]
        return product(dx, w, only[0]) + product(x, dw, only[1])
    return dx @ fp4.fake_quantize(w, of_w, 0) + fp4.fake_quantize(x, of_x, 1) @ dw


@pytest.mark.parametrize(
    ("name", "op"),
    [
        pytest.param(name, op, marks=[pytest.mark.slow] * ((name, op) not in FAST))
        for name in RECIPES
        for op in OPS
        if op == "dot" or name != ROTATED
    ],
)
def test_tangent_is_straight_through(name, op):
    recipe = fp4.get_recipe(name)
    product, *_ = OPS[op]

    @jax.jit
    def run(x, w, dx, dw):
        f = functools.partial(product, recipe=recipe)
        y, dy = jax.jvp(f, (x, w), (dx, dw))
        one = tangent_of(lambda w: f(x, w), w, dw)
        other = tangent_of(lambda x: f(x, w), x, dx)
        return y, f(x, w), dy, one + other, expected(op, recipe, x, w, dx, dw)

    y, same_y, dy, by_parts, formula = run(*arrays(op))
    np.testing.assert_array_equal(y, same_y)
    assert relative_error(dy, formula) < SUMS
    assert relative_error(dy, by_parts) < SUMS


def test_stochastic_operands_are_those_of_fprop():
    """A tangent along x itself, with w fixed, is y where x is representable."""
    _, w, *_ = arrays("dot")
    x = jnp.tile(jnp.array([6.0, -3.0, 0.5, 1.0], jnp.float32), (20, 10))
    f = functools.partial(OPS["dot"][0], recipe=STOCHASTIC)
    y, dy = jax.jit(lambda x, w: jax.jvp(lambda x: f(x, w), (x,), (x,)))(x, w)
    assert relative_error(dy, y) < SUMS


@pytest.mark.parametrize(
    ("name", "op"),
    [
        pytest.param(name, op, marks=[pytest.mark.slow] * ((name, op) != ("full", "conv")))
        for name in ("full", "2d+rht+sr")
        for op in OPS
    ],
)
def test_under_transforms(name, op):
    """vmap, scan, remat and linearize give the tangent of the call itself."""
    product, *_ = OPS[op]
    f = functools.partial(product, recipe=name)

    @jax.jit
    def run(x, w, dx, dw):
        def scanned(x, w):
            return jax.lax.scan(lambda c, _: (c, f(x, w)), 0.0, length=1)[1][0]

        return tangent_of(f, x, w, dx, dw), {
            "vmap": jax.vmap(lambda dx: tangent_of(f, x, w, dx, dw))(dx[None])[0],
            "jvp_of_vmap": tangent_of(jax.vmap(f, (0, None)), x[None], w, dx[None], dw)[0],
            "scan": tangent_of(scanned, x, w, dx, dw),
            "remat": tangent_of(jax.checkpoint(f), x, w, dx, dw),
            "linearize": jax.linearize(f, x, w)[1](dx, dw),
        }

    plain, others = run(*arrays(op))
    assert {k: relative_error(dy, plain) < SUMS for k, dy in others.items()} == dict.fromkeys(
        others, True
    )


def test_zeros_have_the_tangent_of_the_other_operand():
    """Of x = 0, whose tensor scale is 0, too."""
    x, w, dx, _ = arrays("dot")
    f = functools.partial(OPS["dot"][0], recipe="full")
    zero = jnp.zeros_like(x)
    there, at_zero = jax.jit(lambda w: [tangent_of(lambda x: f(x, w), at, dx) for at in (x, zero)])(
        w
    )
    np.testing.assert_array_equal(there, at_zero)


@pytest.mark.parametrize("name", [TRANSPOSED, pytest.param("2d+rht+sr", marks=pytest.mark.slow)])
def test_hessians(name):
    """Forward and reverse mode in any order; where nothing but fprop is quantized they agree."""
    x, w, *_ = arrays("dot")
    f = functools.partial(OPS["dot"][0], recipe=name)
    loss = lambda v: jnp.square(f(jnp.concatenate([v[None], x[1:]]), w)).sum()  # noqa: E731
    ways = {
        "jax.hessian": jax.hessian(loss),
        "forward over forward": jax.jacfwd(jax.jacfwd(loss)),
        "reverse over forward": jax.jacrev(jax.jacfwd(loss)),
        "reverse over reverse": jax.jacrev(jax.jacrev(loss)),
    }
    found = jax.jit(lambda v: {way: h(v) for way, h in ways.items()})(x[0])
    bound = SUMS if name == TRANSPOSED else 0.1
    for way, hessian in found.items():
        assert relative_error(hessian, found["jax.hessian"]) < bound, way


def along_itself(function, *args):
    """The derivative of ``sum(function ** 2)`` along its arguments, by both modes."""
    loss = lambda *args: jnp.square(function(*args)).sum()  # noqa: E731

    @jax.jit
    def both(*args):
        gradients = jax.grad(loss, tuple(range(len(args))))(*args)
        products = jax.tree.map(lambda g, a: (g * a).sum(), gradients, args)
        return jax.jvp(loss, args, args)[1], sum(jax.tree.leaves(products))

    return map(float, both(*args))


def test_attention():
    q, k, v = (jnp.asarray(sample("normal", (1, 6, 2, 16), i)) for i in range(3))
    bias = jnp.asarray(sample("normal", (1, 2, 6, 6), 3))
    attention = functools.partial(fp4.attention, recipe="attention_qat", is_causal=True)
    forward, reverse = along_itself(attention, q, k, v, bias)
    assert forward == pytest.approx(reverse, rel=1e-4)


def test_attention_in_windows():
    qkv = jnp.asarray(sample("normal", (1, 2, 3, 2, 4, 5), 0))
    bias = jnp.asarray(sample("normal", (2, 5, 5), 1))
    forward, reverse = along_itself(lambda *args: attend(*args, None), qkv, bias)
    assert forward == pytest.approx(reverse, rel=1e-4)


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("cnn", TRANSPOSED),
        *(
            pytest.param(arch, recipe, marks=pytest.mark.slow)
            for arch in ("cnn", "swin", "vit")
            for recipe in (None, TRANSPOSED)
            if (arch, recipe) != ("cnn", TRANSPOSED)
        ),
    ],
)
def test_of_a_model(arch, recipe):
    """In training mode, merged inside of the derivative from a state that is outside."""
    small = {"stages": 2, "channels": 4} if arch == "cnn" else {}
    size = 8 if arch == "cnn" else 32
    model = models.create(arch, "500k", image_size=size, rngs=nnx.Rngs(0), **small)
    if recipe is not None:
        model = apply_recipe(model, recipe)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = jnp.asarray(sample("normal", (1, size, size, 3), 0))
    forward, reverse = along_itself(
        lambda params: nnx.merge(graph, params, rest)(x, rngs=nnx.Rngs(dropout=0)), params
    )
    assert forward == pytest.approx(reverse, rel=1e-3)
