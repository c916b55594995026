"""Gradients of gradients, eager and jitted, without NaN: they pass straight through rounding."""

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from tests.checks import relative_error
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


@pytest.mark.parametrize("recipe", ["full", "forward_only+rht", "2d+rht+sr"])
@pytest.mark.parametrize("op", OPS)
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
