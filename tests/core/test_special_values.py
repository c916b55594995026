"""Zeros, NaN, Inf, empty and extreme arrays, through quantize, dequantize and fake_quantize."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec
from tests.oracle import nvfp4 as oracle
from tests.samples import SPECS, bits_for, on_grid, sample, scale_bytes, spec_id, unsigned_zero

# jnp.max drops NaN on CPU for 4096 elements or more: here the tensor has 65536, and 4096 blocks.
SHAPE = (256, 256)
KEY = jax.random.key(3)

all_specs = pytest.mark.parametrize("spec", SPECS, ids=spec_id)


@functools.partial(jax.jit, static_argnums=0)
def _results(spec, x):
    q = fp4.quantize(x, spec, key=KEY)
    fake = fp4.fake_quantize(x, spec, key=KEY)
    return q.unpacked_codes(), q.block_scales, q.amax, q.dequantize(rotated=True), fake


def results(spec, x):
    """(codes without sign of zero, scale bytes, amax, dequantized, fake-quantized)."""
    codes, scales, amax, values, fake = map(np.asarray, _results(spec, x))
    return unsigned_zero(codes), scale_bytes(scales), amax, values, fake


def rotation_safe(spec, x):
    return on_grid(x) if spec.hadamard else x


@all_specs
def test_zeros_are_exact(spec):
    x = np.zeros(SHAPE, np.float32)
    x[::2] = -0.0
    assert not any(array.any() for array in results(spec, x))


@all_specs
def test_zero_blocks_are_exact(spec):
    """Codes, scale bytes and values are zero there, and nowhere else are scales zero."""
    x = rotation_safe(spec, sample("normal", SHAPE))
    x[16:48, 32:64] = 0
    codes, scales, _, values, fake = results(spec, x)
    rows = slice(1, 3) if spec.block == (16, 16) else slice(16, 48)
    assert not codes[16:48, 32:64].any()
    assert not scales[rows, 2:4].any()
    assert not values[16:48, 32:64].any()
    assert not fake[16:48, 32:64].any()
    assert scales.astype(bool).sum() == scales.size - scales[rows, 2:4].size


@all_specs
def test_nan_poisons_everything(spec):
    x = sample("normal", SHAPE)
    x[5, 7] = np.nan
    codes, scales, amax, values, fake = results(spec, x)
    assert not codes.any()
    assert (scales == 0xFF).all()
    assert np.isnan(amax)
    assert np.isnan(values).all()
    assert np.isnan(fake).all()


@all_specs
@pytest.mark.parametrize("sign", [1, -1])
def test_inf_is_not_hidden(spec, sign):
    x = sample("normal", SHAPE)
    x[5, 7] = sign * np.inf
    _, _, amax, values, fake = results(spec, x)
    assert np.isinf(amax)
    assert not np.isfinite(values).any()
    assert not np.isfinite(fake).any()


MAGNITUDES = [1e-34, 1e-30, 1e-20, 1.0, 1e20, 1e30, 6e37]


@all_specs
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_any_magnitude_equals_the_oracle(spec, magnitude):
    """Above 7.6e35 TransformerEngine's dequantize overflows to Inf, and so does this."""
    x = rotation_safe(spec, sample("normal", SHAPE))
    x *= np.float32(2) ** np.round(np.log2(np.float32(magnitude)))
    codes, scales, amax, values, _ = results(spec, x)
    axis = -1 if spec.block == (1, 16) else (-2, -1)
    expected = oracle.quantize(x, spec, axis, bits_for(KEY, spec, SHAPE, axis))
    assert expected.codes.any()
    np.testing.assert_array_equal(codes, unsigned_zero(expected.codes))
    np.testing.assert_array_equal(scales, expected.scales_u8)
    np.testing.assert_array_equal(amax, expected.amax)
    np.testing.assert_array_equal(values, expected.dequantize())


@pytest.mark.parametrize("block", [(1, 16), (16, 16)])
@pytest.mark.parametrize("magnitude", [1e-35, 1e-36])
def test_subnormal_tensor_scale_equals_the_oracle(block, magnitude):
    """Below amax = 3e-35 S_dec = 1 / S_enc is subnormal; its bits still count."""
    spec = fp4.TensorSpec(block=block)
    x = sample("normal", SHAPE) * np.float32(magnitude)
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0
    codes, scales, *_ = results(spec, x)
    expected = oracle.quantize(x, spec, -1 if block == (1, 16) else (-2, -1))
    assert expected.codes.any()
    np.testing.assert_array_equal(codes, unsigned_zero(expected.codes))
    np.testing.assert_array_equal(scales, expected.scales_u8)


@all_specs
@pytest.mark.parametrize("magnitude", [1e-38, 1e-36])
def test_smallest_normal_numbers_stay_bounded(spec, magnitude):
    """TransformerEngine is of no use there either, but nothing is NaN, Inf or larger than amax."""
    x = sample("normal", SHAPE) * np.float32(magnitude)
    _, _, amax, values, fake = results(spec, x)
    # a rotation's products are subnormal at 1e-38
    assert 0 < amax < 50 * magnitude or (spec.hadamard and amax == 0)
    assert (np.abs(values) <= 1.001 * amax).all()
    assert (np.abs(fake) <= (4 if spec.hadamard else 1.001) * amax).all()


PATHS = [TensorSpec(**view) for view in ({}, {"hadamard": True}, {"block": (16, 16)})]
PATHS += [TensorSpec(rounding="stochastic"), TensorSpec(scaling="four_over_six", block=(16, 16))]


@pytest.mark.parametrize("spec", PATHS, ids=spec_id)
def test_empty_in_empty_out(spec):
    shapes = [(0, 16), (4, 0), (2, 0, 5)] + [(0,)] * (spec.block == (1, 16))
    xs = [jnp.zeros(shape, jnp.bfloat16) for shape in shapes]

    @jax.jit
    def everything(xs):
        qs = [fp4.quantize(x, spec, key=KEY) for x in xs]
        return [
            (q, q.dequantize(), q.unpacked_codes(), fp4.fake_quantize(x, spec, key=KEY))
            for q, x in zip(qs, xs, strict=True)
        ]

    for x, (q, values, codes, fake) in zip(xs, everything(xs), strict=True):
        assert q.amax == 0
        assert q.codes.size == q.block_scales.size == 0
        padded = (2, 0, 16) if spec.hadamard and x.shape == (2, 0, 5) else x.shape
        assert codes.shape == padded
        assert q.shape == values.shape == x.shape
        assert (fake.shape, fake.dtype) == (x.shape, x.dtype)
