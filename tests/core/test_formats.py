"""E2M1 and E4M3, exhaustively against ml_dtypes."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fp4jax.core import formats
from tests.samples import assert_same_bits, eager_and_jit

CODES = np.arange(16, dtype=np.uint8)
E2M1_VALUES = CODES.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
E4M3_VALUES = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def test_e2m1_codes_round_trip():
    decoded = formats.decode_e2m1(jnp.asarray(CODES))
    assert_same_bits(decoded, E2M1_VALUES)
    assert_same_bits(formats.encode_e2m1(decoded), CODES)
    np.testing.assert_array_equal(formats.E2M1_MAGNITUDES, E2M1_VALUES[:8])
    assert E2M1_VALUES.max() == formats.E2M1_MAX
    assert E4M3_VALUES.max() == formats.E4M3_MAX


def test_encode_e2m1_of_nan_is_zero():
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert formats.encode_e2m1(jnp.asarray(nans)).tolist() == [0, 0, 0, 0]


def test_pack_puts_even_indices_in_the_low_nibble():
    packed = formats.pack(jnp.array([[1, 2, 15, 0]], jnp.uint8))
    assert packed.tolist() == [[0x21, 0x0F]]


@pytest.mark.parametrize("shape", [(2,), (0, 16), (3, 0), (1, 256), (2, 3, 20)])
def test_unpack_undoes_pack(shape):
    codes = np.random.default_rng(0).integers(0, 16, shape).astype(np.uint8)
    packed = formats.pack(jnp.asarray(codes))
    assert packed.shape == (*shape[:-1], shape[-1] // 2)
    assert_same_bits(formats.unpack(packed), codes)


def e4m3_cases():
    """Every E4M3 value, every midpoint of two, and the float32 numbers next to each."""
    midpoints = (E4M3_VALUES[1:] + E4M3_VALUES[:-1]) / 2
    exact = np.concatenate([E4M3_VALUES, midpoints])
    below, above = np.nextafter(exact[1:], 0), np.nextafter(exact[1:], np.inf)
    tiny = np.float32(2) ** np.arange(-126, -9, dtype=np.float32)
    dense = np.geomspace(2**-12, 500, 20000).astype(np.float32)
    large = np.array([449, 463.99, 464, 464.01, 480, 1e4, 1e38, 3.4e38, np.inf], np.float32)
    return np.concatenate([exact, below, above, tiny, dense, large])


@eager_and_jit
def test_round_e4m3_is_the_saturating_cast(way):
    x = e4m3_cases()
    expected = np.minimum(x, 448).astype(ml_dtypes.float8_e4m3fn)
    assert len(np.unique(expected)) == 127
    rounded = way(formats.round_e4m3)(jnp.asarray(x))
    assert_same_bits(rounded, expected.astype(np.float32))
    # and it survives the cast to the byte that is stored
    stored = np.asarray(rounded.astype(jnp.float8_e4m3fn)).view(np.uint8)
    np.testing.assert_array_equal(stored, expected.view(np.uint8))


@eager_and_jit
def test_round_e4m3_keeps_nan_as_byte_ff(way):
    rounded = way(formats.round_e4m3)(jnp.array([np.nan, -np.nan], jnp.float32))
    assert np.isnan(rounded).all()
    stored = way(formats.e4m3_bytes)(rounded)
    assert np.asarray(stored).view(np.uint8).tolist() == [0xFF, 0xFF]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_supported_floats(dtype):
    assert formats.supported_float(dtype)
    for x in (np.zeros(3, dtype), jnp.zeros(3, dtype)):
        array = formats.float_array("x", x)
        assert isinstance(array, jax.Array)
        assert array.dtype == dtype


@pytest.mark.parametrize(
    "dtype", [np.float64, bool, np.int32, np.uint8, jnp.float8_e4m3fn, np.complex64]
)
def test_unsupported_dtypes(dtype):
    """Of NumPy's arrays, too, whose float64 JAX would make float32."""
    assert not formats.supported_float(dtype)
    with pytest.raises(ValueError, match=r"w has dtype .* w\.astype"):
        formats.float_array("w", np.zeros(3, dtype))


def test_python_numbers():
    assert formats.float_array("x", 0.5).dtype == jnp.float32
    with pytest.raises(ValueError, match="x has dtype int32"):
        formats.float_array("x", 1)
