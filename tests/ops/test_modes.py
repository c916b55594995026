"""Modes of JAX and ways to compile in which results must not change.

x64, donated arguments, debug_nans (compiled and not), export for several platforms: each operation
in each, with one recipe. The slow tests have every recipe.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from tests.checks import SUMS, Results, assert_close, three_gemms
from tests.samples import on_grid, sample

KEY = jax.random.key(0)
DIMENSIONS = (((1,), (0,)), ((), ()))
LAYOUT = ("NHWC", "HWIO", "NHWC")
OPS = {
    "dot_general": (
        lambda x, w, **options: fp4.dot_general(x, w, DIMENSIONS, **options),
        ((10, 20), (20, 12)),
    ),
    "conv_general_dilated": (
        lambda x, w, **options: fp4.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=LAYOUT, **options
        ),
        ((2, 4, 3, 20), (3, 2, 20, 12)),
    ),
    "conv_transpose": (
        lambda x, w, **options: fp4.conv_transpose(x, w, (2, 1), "SAME", **options),
        ((2, 3, 2, 20), (3, 2, 20, 12)),
    ),
}
FAST = {
    "dot_general": "full",
    "conv_general_dilated": "chain_rule",
    "conv_transpose": "2d+rht+sr",
}
calls = pytest.mark.parametrize(
    ("op", "recipe"),
    [
        pytest.param(op, recipe, marks=[pytest.mark.slow] * slow)
        for op in OPS
        for recipe in fp4.recipes()
        for slow in [recipe != FAST[op]]
    ],
)


def step(op: str, recipe: str):
    """``(x, w, g) -> (y, dx, dw)``, another function each time, which nothing has traced."""
    return three_gemms(lambda x, w: OPS[op][0](x, w, recipe=recipe, key=KEY))


def data(op: str) -> list[jax.Array]:
    """x, w and a cotangent on which rotations are exact."""
    function, shapes = OPS[op]
    x, w = (on_grid(sample("normal", shape, i)) for i, shape in enumerate(shapes))
    y = jax.eval_shape(lambda: function(x, w, recipe="baseline"))
    return [jnp.asarray(a) for a in (x, w, on_grid(sample("normal", y.shape, 2)))]


@functools.cache
def expected(op: str, recipe: str):
    return jax.jit(step(op, recipe))(*data(op))


@calls
def test_x64(op, recipe):
    """float32 operands are what they are without it: the same codes, and float32 results."""
    without = expected(op, recipe)
    arrays = data(op)
    with jax.enable_x64(True):
        results = jax.jit(step(op, recipe))(*arrays)
    assert {a.dtype for a in results} == {jnp.dtype("float32")}
    assert_close(results, without, SUMS)


@calls
def test_donated_arguments(op, recipe):
    """Their memory may be used for the results, and nothing reads it afterwards."""
    arrays = data(op)
    results = jax.jit(step(op, recipe), donate_argnums=(0, 1, 2))(*arrays)
    assert all(a.is_deleted() for a in arrays)
    assert_close(results, expected(op, recipe), SUMS)


def zeros_in(op: str) -> list[list[jax.Array]]:
    """Operands without zeros, with x of zeros, with zeros only."""
    x, w, g = data(op)
    nothing = [jnp.zeros_like(a) for a in (x, w, g)]
    return [[x, w, g], [nothing[0], w, g], nothing]


def check_without_nans(op: str, recipe: str) -> None:
    """No NaN on the way to finite results, which are those without the mode."""
    with jax.debug_nans(True):
        f = jax.jit(step(op, recipe))
        first, *others = (f(*arrays) for arrays in zeros_in(op))
    assert_close(first, expected(op, recipe), SUMS)
    assert all(np.isfinite(a).all() for results in others for a in results)


@calls
def test_debug_nans(op, recipe):
    check_without_nans(op, recipe)


# Each operation is compiled by itself, and convolutions have many.
@pytest.mark.parametrize(
    "op", ["dot_general", *(pytest.param(op, marks=pytest.mark.slow) for op in list(OPS)[1:])]
)
def test_debug_nans_without_jit(op):
    with jax.disable_jit():
        check_without_nans(op, "2d+rht+sr")


@calls
def test_exported(op, recipe):
    """One module for CPUs and GPUs, which computes on this CPU what is compiled here."""
    arrays = data(op)
    exported = jax.export.export(
        jax.jit(lambda *a: tuple(step(op, recipe)(*a))), platforms=["cpu", "cuda"]
    )(*arrays)
    assert exported.platforms == ("cpu", "cuda")
    assert_close(Results(*exported.call(*arrays)), expected(op, recipe), SUMS)
