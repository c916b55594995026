"""Arithmetic that XLA must not rewrite, and JAX's transformations must not open up to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.core import exact
from tests.fusions import distinct_kernels
from tests.samples import assert_same_bits, sample


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_division_by_a_constant_is_one(times):
    """Mapped, too: XLA multiplies with the reciprocal of what it knows to be broadcast."""
    x = sample("normal", (4, 8, 64))
    divide = lambda x: exact.divide(x, 7.0)  # noqa: E731
    for _ in range(times):
        divide = jax.vmap(divide)
    assert_same_bits(jax.jit(divide)(x), x / np.float32(7))
    assert (x * np.float32(1 / 7) != x / np.float32(7)).any()


def test_its_derivative_is_that_of_a_division():
    """Of no use to the quantizers, whose derivatives are rules of their own."""
    _, tangent = jax.jvp(lambda x: exact.divide(x, 4.0), (jnp.ones(3),), (jnp.full(3, 2.0),))
    assert (tangent == 0.5).all()


def test_rows_share_a_kernel():
    """Their number does not decide how long they compile; slices have one kernel each."""
    table = jnp.arange(60, dtype=jnp.uint32).reshape(5, 6, 2)
    for row, found in zip(table, jax.jit(exact.rows)(table), strict=True):
        assert_same_bits(found, row)
    assert distinct_kernels(exact.rows, table) == 1
    assert distinct_kernels(lambda t: [exact.materialize(row) for row in t], table) == 5
