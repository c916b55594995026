"""scaled_matmul: every implementation against the product of exact values."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.kernels.block_scaled_matmul import base, pallas_triton, tiles
from fp4jax.kernels.block_scaled_matmul.arg_specs import AWKWARD, Layer, weights
from fp4jax.kernels.block_scaled_matmul.operands import Packed
from tests.kernels.operands import (
    KINDS,
    ROWS,
    TILES,
    exact_product_of,
    interpreted,
    left,
    unit_pair,
)
from tests.samples import normal


@pytest.mark.parametrize(
    ("shape", "kind", "spec"),
    [
        pytest.param(s, KINDS[i % 3], (ROWS, TILES)[i // 3 % 2], marks=[pytest.mark.slow] * (i > 3))
        for i, s in enumerate(AWKWARD)
    ],
)
def test_equals_the_product_of_dequantized_operands(shape, kind, spec):
    m, k, n = shape
    a, a_values = left(m, k, kind)
    b = weights(Layer("", k, n), spec)
    b_values = np.asarray(b.dequantize(), np.float64)
    expected, scale = a_values @ b_values, np.abs(a_values) @ np.abs(b_values)
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(a, b, preferred_element_type=jnp.float32, **options)
        assert y.shape == (m, n)
        assert (np.abs(np.asarray(y, np.float64) - expected) <= 1e-6 * scale).all(), options


@settings(max_examples=3)
@given(
    m=st.integers(1, 40),
    k=st.integers(1, 150),
    n=st.integers(1, 50),
    spec=st.sampled_from([ROWS, TILES]),
    seed=st.integers(0, 99),
)
def test_interpreted_kernel_has_the_bits_of_the_reference_with_unit_scales(m, k, n, spec, seed):
    """Products are multiples of 1/4 and sums are exact: no order of summation changes them."""
    a, b = unit_pair(np.random.default_rng(seed), m, k, n, spec)
    expected = exact_product_of(a, b)
    for options in ({}, interpreted):
        np.testing.assert_array_equal(kernels.scaled_matmul(a, b, **options), expected)


TABLE = dict.fromkeys(
    tile for table in (tiles._TABLE[9], tiles._TABLE[10], tiles._OTHERS) for tile in table.values()
)


@pytest.mark.parametrize(
    "tile",
    [pytest.param(t, marks=[pytest.mark.slow] if i % 3 else []) for i, t in enumerate(TABLE)],
)
def test_every_tile_of_the_table(tile):
    """Bits do not depend on tiles, on which operand is first, or on the parts of k."""
    tile = dataclasses.replace(tile, split=2)
    a, b = unit_pair(np.random.default_rng(0), 20, 300, 140, ROWS)
    values = base.decoded_rows(a)
    packed = Packed(b.codes, b.block_scales)
    y = pallas_triton.product(values, packed, tile, portable=True, interpret=True)
    np.testing.assert_array_equal(y, exact_product_of(a, b))


def test_order_of_the_scales():
    """The accumulator times a's tensor scale, times b's: as in the quantized dot_general."""
    a = normal(3, 24, 80) * 3
    w = normal(4, 80, 48) * 0.01
    dims = (((1,), (0,)), ((), ()))
    expected = fp4.dot_general(a, w, dims, recipe="full")
    qa, qw = fp4.quantize(a, ROWS), fp4.quantize(w, ROWS, axis=0)
    y = kernels.scaled_matmul(qa, qw)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6 * float(jnp.abs(expected).max()))
    unit_a, unit_w = unit_pair(np.random.default_rng(0), 24, 80, 48, ROWS)
    rescaled = [
        dataclasses.replace(q, amax=amax)
        for q, amax in ((unit_a, jnp.float32(1.7)), (unit_w, jnp.float32(0.3)))
    ]
    sums = np.asarray(kernels.scaled_matmul(unit_a, unit_w))
    scales = [np.asarray(q.tensor_scale) for q in rescaled]
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(*rescaled, **options)
        np.testing.assert_array_equal(y, (sums * scales[0]) * scales[1])


def test_nan_and_inf_are_not_hidden():
    w = jnp.ones((32, 4)).at[3, 2].set(jnp.nan)
    y = kernels.scaled_matmul(jnp.ones((2, 32)), fp4.quantize(w, ROWS, axis=0), **interpreted)
    assert jnp.isnan(y).all()
    a = jnp.ones((2, 32)).at[1, 5].set(jnp.inf)
    y = kernels.scaled_matmul(a, fp4.quantize(jnp.ones((32, 4)), ROWS, axis=0), **interpreted)
    assert jnp.isfinite(y[0]).all()
    assert (y[1] == jnp.inf).all()


@pytest.mark.parametrize("shape", [(0, 32, 4), (3, 32, 0), (3, 0, 4)])
def test_empty(shape):
    m, k, n = shape
    b = weights(Layer("", k, n))
    for options in ({}, interpreted):
        y = kernels.scaled_matmul(jnp.ones((m, k)), b, **options)
        np.testing.assert_array_equal(y, np.zeros((m, n)))


def test_dtypes():
    b = weights(Layer("", 32, 8))
    q = fp4.quantize(jnp.ones((3, 32)), ROWS)
    for a, dtype in ((jnp.ones((3, 32)), "float32"), (q, "float32")):
        assert kernels.scaled_matmul(a, b).dtype == dtype
    half = jnp.ones((3, 32), jnp.bfloat16)
    for options in ({}, interpreted):
        assert kernels.scaled_matmul(half, b, **options).dtype == jnp.bfloat16
        y = kernels.scaled_matmul(half, b, preferred_element_type=jnp.float16, **options)
        assert y.dtype == jnp.float16
