"""quantize: against the oracle, on what it already quantized, and refused arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.core import hadamard
from tests.checks import diagonal
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
FOUR_OVER_SIX = TensorSpec(scaling="four_over_six")
SR, UNBIASED = (TensorSpec(rounding=r) for r in ("stochastic", "stochastic_unbiased"))
RHT = TensorSpec(hadamard=True)


@functools.partial(jax.jit, static_argnums=(1, 2))
def quantized(x, spec, axis, key=None):
    q = fp4.quantize(x, spec, axis, key)
    return q.unpacked_codes(), q.block_scales, q.amax, q.dequantize(rotated=True)


# Every code path at ranks 1, 3 and 4; all specs at rank 2 in test_special_values.
CASES = [
    *(
        ((3, 20, 18), -2 if spec.block == (1, 16) else (2, 1), spec)
        for spec in SPECS
        if spec.scaling == "amax" or (spec.four_over_six_error, spec.bound) == ("mse", 1536)
    ),
    *(((37,), 0, spec) for spec in (ROW, SR, UNBIASED, RHT, FOUR_OVER_SIX)),
    *(((18, 2, 3, 17), 0, spec) for spec in (ROW, SR, UNBIASED, RHT, FOUR_OVER_SIX)),
    ((18, 2, 3, 17), (0, -1), TILE),
    ((18, 2, 3, 17), (-1, 0), TensorSpec(block=(16, 16), rounding="stochastic")),
]


@pytest.mark.parametrize(
    ("shape", "axis", "spec"), CASES, ids=[f"{len(shape)}d-{spec_id(s)}" for shape, _, s in CASES]
)
def test_equals_the_oracle(shape, axis, spec):
    """Codes, scale bytes, amax and values, with the same random bits."""
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


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    diagonal([jnp.float32, jnp.bfloat16, jnp.float16], ["nearest", "stochastic"]),
)
def test_hadamard_is_quantizing_the_rotated_array(rounding, dtype):
    x, key = jnp.asarray(sample("normal", (20, 6)), dtype), jax.random.key(1)
    spec, plain = (TensorSpec(rounding=rounding, hadamard=h) for h in (True, False))
    rotated = hadamard.random_hadamard(x, 0)
    expected = quantized(rotated, plain, 0, key)
    for ours, theirs in zip(quantized(x, spec, 0, key), expected, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize(
    ("spec", "dtype"),
    diagonal([ROW, TILE, SR, FOUR_OVER_SIX], [jnp.bfloat16, jnp.float16]),
    ids=lambda value: spec_id(value) if isinstance(value, TensorSpec) else value.__name__,
)
def test_small_floats_are_quantized_as_float32(spec, dtype):
    x, key = jnp.asarray(sample("normal", (32, 48)), dtype), jax.random.key(1)
    single = quantized(x.astype(jnp.float32), spec, -1, key)
    for ours, expected in zip(quantized(x, spec, -1, key), single, strict=True):
        assert_same_bits(ours, expected)


def test_keys_typed_or_raw_and_same_bits_for_the_same_key():
    x = jnp.asarray(sample("normal", (32, 48)))
    draw = lambda key: quantized(x, SR, -1, key)[0]  # noqa: E731
    assert_same_bits(draw(jax.random.key(1)), draw(jax.random.PRNGKey(1)))
    assert (draw(jax.random.key(1)) != draw(jax.random.key(2))).any()
    # a key that is not needed changes nothing
    assert_same_bits(quantized(x, ROW, -1, jax.random.key(1))[3], quantized(x, ROW, -1)[3])


# --- Q(DQ(Q(x))) == Q(x). The design excludes subnormal and tied scales, and data near FLT_MAX.

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
data = given(kind=st.sampled_from(sorted(IDEMPOTENT)), seed=st.integers(0, 2**32 - 1))


def draw(kind, seed):
    rng = np.random.default_rng(seed)
    return IDEMPOTENT[kind](rng, rng.standard_normal((32, 48))).astype(np.float32)


@pytest.mark.parametrize("spec", [ROW, TILE], ids=spec_id)
@data
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
    "spec", [s for s in SPECS if s.scaling == "four_over_six" and not s.hadamard], ids=spec_id
)
@data
@settings(max_examples=30)
def test_four_over_six_is_idempotent_in_values(spec, kind, seed):
    """Not in codes: a block with one non-zero value is exact as 4 and as 6."""
    *_, values = quantized(draw(kind, seed), spec, -1)
    *_, again = quantized(values, spec, -1)
    np.testing.assert_allclose(again, values, rtol=6e-7)


# --- refused arguments; fake_quantize refuses the same

both = pytest.mark.parametrize("function", [fp4.quantize, fp4.fake_quantize])


@both
def test_implementation(function):
    x = jnp.asarray(sample("normal", (4, 20)))
    jax.tree.map(assert_same_bits, function(x, ROW, implementation="reference"), function(x, ROW))
    with pytest.raises(ValueError, match="'cuda'; allowed: 'auto', 'reference', 'fused'"):
        function(x, ROW, implementation="cuda")
    with pytest.raises(ValueError, match=r"'fused', but .* not a GPU .* Use 'auto'"):
        function(x, ROW, implementation="fused")


@both
@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8, jnp.float8_e4m3fn, np.complex64])
def test_other_dtypes(function, dtype):
    message = r"x has dtype .* NVFP4 quantizes float32, bfloat16 and float16.*x\.astype"
    with pytest.raises(ValueError, match=message):
        function(jnp.zeros((4, 16), dtype), ROW)


@both
@pytest.mark.parametrize("x64", [True, False])
def test_float64(function, x64):
    """Also where JAX would make it float32 without a word."""
    with jax.enable_x64(x64), pytest.raises(ValueError, match="x has dtype float64"):
        function(np.zeros((4, 16), np.float64), ROW)


@both
def test_scalar(function):
    with pytest.raises(ValueError, match=r"x is a scalar; .* reshape it to \(1,\)"):
        function(jnp.float32(1), ROW)


@both
@pytest.mark.parametrize(
    ("spec", "axis", "message"),
    [
        (ROW, 2, "axis 2 is out of range for rank 2"),
        (ROW, -3, "axis -3 is out of range"),
        (ROW, (0, 1), "take one axis"),
        (TILE, 0, r"take a pair of axes, for example \(-2, -1\)"),
        (TILE, (0, 0), "must differ"),
        (TILE, (1, -1), "must differ"),
        (TILE, (0, 5), "axis 5 is out of range"),
        (SR, -1, r"rounding 'stochastic' needs random bits .* key=jax\.random\.key"),
        (UNBIASED, -1, r"rounding 'stochastic_unbiased' needs random bits"),
    ],
)
def test_bad_axis_or_missing_key(function, spec, axis, message):
    with pytest.raises(ValueError, match=message):
        function(jnp.ones((32, 48)), spec, axis)


@both
def test_rank_1_has_no_tiles(function):
    with pytest.raises(ValueError, match="rank 1 cannot hold blocks of 16x16"):
        function(jnp.ones(32), TILE)


@both
def test_x64_mode_changes_nothing(function):
    """Float32 in, the same bits out, where Python numbers are float64."""
    x = sample("normal", (20, 35))
    for spec in (ROW, UNBIASED, FOUR_OVER_SIX, RHT):
        run = lambda x, spec=spec: jax.tree.leaves(function(x, spec, 0, jax.random.key(1)))  # noqa: E731
        expected = jax.jit(run)(x)
        with jax.enable_x64(True):
            for ours, theirs in zip(jax.jit(run)(x), expected, strict=True):
                assert_same_bits(ours, theirs)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "stochastic_unbiased"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((40, 6), 1), ((3, 2, 12), 0), ((5,), 0), ((4, 15), -1)),
        *(((40, 24), 1), ((36, 5), 0), ((2, 60, 3), 1), ((7, 18), -1)),  # pieces of 8, 4, 4; none
    ],
)
def test_an_axis_of_no_whole_blocks_has_the_bits_of_packed_codes(shape, axis, rounding):
    """Which are padded to a block; random bits belong to places in the padded array."""
    x, key = jnp.asarray(sample("normal", shape)), jax.random.key(5)
    spec = TensorSpec(rounding=rounding)
    packed = fp4.quantize(x, spec, axis, key).dequantize()
    np.testing.assert_array_equal(fp4.fake_quantize(x, spec, axis, key), packed)


@pytest.mark.parametrize("amax", ["example", "row"])
def test_pieces_of_blocks_with_several_amax_have_the_bits_of_padded_ones(amax):
    x = jnp.asarray(sample("normal", (3, 24)) * np.float32([[1], [40], [0]]))
    spec = TensorSpec(amax=amax)
    padded = fp4.fake_quantize(jnp.pad(x, ((0, 0), (0, 8))), spec, 1)
    np.testing.assert_array_equal(fp4.fake_quantize(x, spec, 1), padded[:, :24])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_nan_or_inf_in_one_piece_is_one_of_its_whole_block(value):
    x = jnp.ones((2, 24)).at[0, 3].set(value)
    padded = fp4.fake_quantize(jnp.pad(x, ((0, 0), (0, 8))), TensorSpec(), 1)
    np.testing.assert_array_equal(fp4.fake_quantize(x, TensorSpec(), 1), padded[:, :24])
