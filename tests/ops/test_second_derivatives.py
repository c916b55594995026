"""Gradients of gradients, eager and jitted, without NaN: they pass straight through rounding."""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from tests.checks import diagonal, relative_error
from tests.samples import sample

KEY = jax.random.key(0)
DIMENSIONS = (((1,), (0,)), ((), ()))
LAYOUT = ("NHWC", "HWIO", "NHWC")
OPS = {
    "dot": (
        lambda x, w, recipe: fp4.dot_general(
            x, w, (((1,), (0,)), ((), ())), recipe=recipe, key=KEY
        ),
        (20, 40),
        (40, 24),
    ),
    "conv": (
        lambda x, w, recipe: fp4.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=LAYOUT, recipe=recipe, key=KEY
        ),
        (2, 5, 5, 20),
        (3, 3, 20, 8),
    ),
    "conv_transpose": (
        lambda x, w, recipe: fp4.conv_transpose(x, w, (2, 2), "SAME", recipe=recipe, key=KEY),
        (2, 4, 4, 20),
        (3, 3, 20, 8),
    ),
}


def second(op, x, w, recipe):
    """d/dx |dL/dx|^2 for L = |y|^2."""

    def norm_of_gradient(x):
        g = jax.grad(lambda x: jnp.square(op(x, w, recipe)).sum())(x)
        return jnp.square(g).sum()

    return jax.grad(norm_of_gradient)(x)


@pytest.mark.parametrize(
    ("recipe", "op"), diagonal(["full", "forward_only+rht", "2d+rht+sr"], list(OPS))
)
def test_eager_and_jitted_and_without_nan(op, recipe):
    """Eager equals jitted up to the order of sums; zeros have no NaN on the way either."""
    function, x_shape, w_shape = OPS[op]
    x, w = (jnp.asarray(sample("normal", shape, i)) for i, shape in enumerate((x_shape, w_shape)))
    jitted = jax.jit(lambda x, w: second(function, x, w, recipe))
    with jax.debug_nans(True):
        eager = second(function, x, w, recipe)
        assert relative_error(eager, jitted(x, w)) < 1e-5
        zeros = second(function, jnp.zeros_like(x), w, recipe)
    assert not zeros.any()


def straight_through(recipe: fp4.Recipe):
    """x w of fake-quantized operands, written down with JAX alone: what the recipe means."""

    def rounded(a, spec, axis):
        if spec is None:
            return a
        return fp4.fake_quantize(a, spec, axis if spec.block == (1, 16) else (axis, 1 - axis))

    def forward(x, w):
        return rounded(x, recipe.fprop[0], 1), rounded(w, recipe.fprop[1], 0)

    @jax.custom_vjp
    def product(x, w):
        return jnp.matmul(*forward(x, w))

    def saved(x, w):
        return jnp.matmul(*forward(x, w)), forward(x, w) if recipe.residuals == "quantized" else (
            x,
            w,
        )

    def backward(kept, g):
        x, w = kept
        dx = rounded(g, recipe.dgrad[0], 1) @ rounded(w, recipe.dgrad[1], 1).T
        return dx, rounded(x, recipe.wgrad[0], 0).T @ rounded(g, recipe.wgrad[1], 0)

    product.defvjp(saved, backward)
    return product


ROTATED = fp4.TensorSpec(hadamard=True)
ROTATED_CHAIN = fp4.Recipe(name="rotated", fprop=(ROTATED, ROTATED), residuals="quantized")


@pytest.mark.parametrize(
    "recipe", ["full", "chain_rule", "2d+rht", "forward_only+rht", ROTATED_CHAIN], ids=str
)
def test_of_a_product_is_that_of_its_definition(recipe):
    """Each rounding has the derivative one; whole blocks of 16, which rotations need."""
    recipe = fp4.get_recipe(recipe)
    x, w = (jnp.asarray(sample("normal", shape, i)) for i, shape in enumerate(((16, 32), (32, 48))))
    of = lambda op: second(lambda x, w, _: op(x, w), x, w, None)  # noqa: E731
    op = lambda x, w: fp4.dot_general(x, w, DIMENSIONS, recipe=recipe)  # noqa: E731
    ours, expected = jax.jit(lambda: (of(op), of(straight_through(recipe))))()
    # Two sums more than SUMS allows for, and those of the rotations.
    assert relative_error(ours, expected) < 1e-5
