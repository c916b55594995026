"""quantize against the oracle, idempotence, special values and refused arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import TensorSpec, hadamard
from tests.oracle import nvfp4 as oracle
from tests.samples import (
    KINDS,
    SPECS,
    assert_same_bits,
    bits_for,
    on_grid,
    sample,
    scale_bytes,
    spec_id,
    unsigned_zero,
)

ROW, TILE = TensorSpec(), TensorSpec(block=(16, 16))


@functools.partial(jax.jit, static_argnums=(1, 2))
def quantized(x, spec, axis, key=None):
    q = fp4.quantize(x, spec, axis, key)
    return q.unpacked_codes(), q.block_scales, q.amax, q.dequantize()


# Ranks 1 to 4, remainders, negative axes; for 16x16 pairs in both orders.
VIEWS = [
    ((37,), 0, None),
    ((32, 48), -1, (-1, 0)),
    ((3, 20, 18), -2, (2, 1)),
    ((18, 2, 3, 17), 0, (0, -1)),
]


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize(("shape", "axis", "pair"), VIEWS)
def test_equals_the_oracle(spec, shape, axis, pair):
    """Codes, scale bytes and amax; the same random bits where rounding is stochastic."""
    axis = pair if spec.block == (16, 16) else axis
    if axis is None:
        pytest.skip("rank 1 has no tiles")
    key = jax.random.key(7)
    for kind in KINDS:
        x = sample(kind, shape)
        x = on_grid(x) if spec.hadamard else x
        codes, scales, amax, values = quantized(x, spec, axis, key)
        expected = oracle.quantize(x, spec, axis, bits_for(key, spec, shape, axis))
        assert expected.codes.any()
        assert expected.scales_u8.any()
        moved = np.moveaxis(expected.scales_u8, expected.axes, range(-len(expected.axes), 0))
        cut = expected.codes[tuple(slice(n) for n in codes.shape)]
        np.testing.assert_array_equal(unsigned_zero(codes), unsigned_zero(cut), strict=True)
        np.testing.assert_array_equal(scale_bytes(scales), moved, strict=True)
        np.testing.assert_array_equal(amax, expected.amax)
        np.testing.assert_array_equal(values, expected.dequantize(), strict=True)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "stochastic_unbiased"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_hadamard_is_quantizing_the_rotated_array(rounding, dtype):
    x, key = jnp.asarray(sample("normal", (20, 6)), dtype), jax.random.key(1)
    spec, plain = (TensorSpec(rounding=rounding, hadamard=h) for h in (True, False))
    rotated = hadamard.random_hadamard(x, 0)
    for ours, expected in zip(
        quantized(x, spec, 0, key), quantized(rotated, plain, 0, key), strict=True
    ):
        assert_same_bits(ours, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.hadamard], ids=spec_id)
def test_small_floats_are_quantized_as_float32(spec, dtype):
    x, key = jnp.asarray(sample("normal", (32, 48)), dtype), jax.random.key(1)
    single = quantized(x.astype(jnp.float32), spec, -1, key)
    for ours, expected in zip(quantized(x, spec, -1, key), single, strict=True):
        assert_same_bits(ours, expected)


# --- Q(DQ(Q(x))) == Q(x)

# The design excludes the kinds with subnormal or tied scales and those near FLT_MAX.
IDEMPOTENT = {
    "normal": lambda rng, n: n,
    "uniform": lambda rng, n: rng.uniform(-1, 1, n.shape),
    "heavy": lambda rng, n: rng.standard_t(2, n.shape),
    "outliers": lambda rng, n: n * np.where(rng.random(n.shape) < 0.01, 20, 1),
    "tiny": lambda rng, n: n * 1e-20,
    "huge": lambda rng, n: n * 1e20,
    "constant": lambda rng, n: np.full_like(n, rng.uniform(0.1, 3)),
    "positive": lambda rng, n: np.maximum(n, 0),
    "gradients": lambda rng, n: np.sign(n) * rng.lognormal(np.log(1e-6), 1, n.shape),
    "zero blocks": lambda rng, n: n * np.kron(rng.random((2, 3)) < 0.5, np.ones((16, 16))),
    "one hot": lambda rng, n: n * (np.arange(n.size).reshape(n.shape) == rng.integers(n.size)),
}
seeds = st.integers(0, 2**32 - 1)


def draw(kind, seed):
    rng = np.random.default_rng(seed)
    return IDEMPOTENT[kind](rng, rng.standard_normal((32, 48))).astype(np.float32)


@pytest.mark.parametrize("spec", [ROW, TILE], ids=spec_id)
@given(kind=st.sampled_from(sorted(IDEMPOTENT)), seed=seeds)
@settings(max_examples=200)
def test_idempotent(spec, kind, seed):
    codes, scales, amax, values = quantized(draw(kind, seed), spec, -1)
    again_codes, again_scales, again_amax, again_values = quantized(values, spec, -1)
    np.testing.assert_array_equal(unsigned_zero(again_codes), unsigned_zero(codes))
    np.testing.assert_array_equal(scale_bytes(again_scales), scale_bytes(scales))
    # amax comes out of a product of three, so its last bit may change
    np.testing.assert_allclose(again_amax, amax, rtol=3e-7)
    np.testing.assert_allclose(again_values, values, rtol=6e-7)


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.scaling != "amax" and not s.hadamard], ids=spec_id
)
@given(kind=st.sampled_from(sorted(IDEMPOTENT)), seed=seeds)
@settings(max_examples=30)
def test_four_over_six_is_idempotent_in_values(spec, kind, seed):
    """Not in codes: a block with one non-zero value is exact as 4 and as 6."""
    *_, values = quantized(draw(kind, seed), spec, -1)
    *_, again = quantized(values, spec, -1)
    np.testing.assert_allclose(again, values, rtol=6e-7)


# --- special values

SPECIAL = pytest.mark.parametrize("spec", SPECS, ids=spec_id)
KEY = jax.random.key(3)


@SPECIAL
def test_zeros_are_exact(spec):
    """All zeros, and -0: codes of zero, scale bytes 0x00, values of zero."""
    x = np.zeros((32, 48), np.float32)
    x[::2] = -0.0
    codes, scales, amax, values = quantized(x, spec, -1, KEY)
    assert not unsigned_zero(codes).any()
    assert not scale_bytes(scales).any()
    assert amax == 0
    assert (np.asarray(values) == 0).all()
    assert not np.asarray(fp4.fake_quantize(x, spec, key=KEY)).any()


@SPECIAL
def test_zero_blocks_are_exact_and_change_nothing(spec):
    x = sample("normal", (32, 48))
    x[:16, 16:32] = 0
    codes, scales, _, values = quantized(x, spec, -1, KEY)
    rows = 0 if spec.block == (16, 16) else slice(16)
    assert not scale_bytes(scales)[rows, 1].any()
    assert not unsigned_zero(codes)[:16, 16:32].any()
    assert (np.asarray(values)[:16, 16:32] == 0).all()
    assert scale_bytes(scales)[:, [0, 2]].all()


@SPECIAL
@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (128, 256)])
def test_nan_poisons_everything(spec, shape):
    """Also where jnp.max of so many elements drops NaN on CPU."""
    x = sample("normal", shape)
    x[5, 7] = np.nan
    codes, scales, amax, values = quantized(x, spec, -1, KEY)
    assert np.isnan(amax)
    assert np.isnan(values).all()
    assert (scale_bytes(scales) == 0xFF).all()
    assert not np.asarray(codes).any()
    fake = jax.jit(functools.partial(fp4.fake_quantize, spec=spec))(x, key=KEY)
    assert np.isnan(fake).all()


@SPECIAL
@pytest.mark.parametrize("sign", [1, -1])
def test_inf_is_not_hidden(spec, sign):
    x = sample("normal", (64, 96))
    x[5, 7] = sign * np.inf
    *_, amax, values = quantized(x, spec, -1, KEY)
    assert np.isinf(amax) or (spec.hadamard and np.isnan(amax))
    assert not np.isfinite(values).any()
    assert not np.isfinite(fp4.fake_quantize(x, spec, key=KEY)).any()


@SPECIAL
def test_empty(spec):
    shapes = [(0, 16), (4, 0), (0, 0), (2, 0, 5)] + [(0,)] * (spec.block == (1, 16))
    for shape in shapes:
        x = jnp.zeros(shape, jnp.bfloat16)
        q = fp4.quantize(x, spec, key=KEY)
        assert q.shape == q.dequantize().shape == q.unpacked_codes().shape
        assert q.codes.size == q.block_scales.size == q.dequantize().size == 0
        assert q.amax == 0
        fake = fp4.fake_quantize(x, spec, key=KEY)
        assert (fake.shape, fake.dtype) == (shape, jnp.bfloat16)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e20, 1e30])
def test_magnitude_does_not_matter(spec, magnitude):
    """A power of two times x has x's codes and scale bytes."""
    x = on_grid(sample("normal", (32, 48)))
    scale = np.float32(2) ** np.round(np.log2(np.float32(magnitude)))
    codes, scales, amax, values = quantized(x, spec, -1, KEY)
    scaled = quantized(x * scale, spec, -1, KEY)
    assert_same_bits(scaled[0], codes)
    np.testing.assert_array_equal(scale_bytes(scaled[1]), scale_bytes(scales))
    assert scaled[2] == amax * scale
    assert_same_bits(scaled[3], values * scale)
