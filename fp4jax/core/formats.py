"""How numbers are stored: two 4-bit codes per byte, E4M3 and E8M0 scales; dtypes to quantize.

An E2M1 code has 4 bits: bit 3 is the sign, bits 0-2 index the magnitudes
0, 0.5, 1, 1.5, 2, 3, 4, 6. An E4M3 byte (``float8_e4m3fn``) holds a block scale of at most 448.
An E8M0 byte (``float8_e8m0fnu``) is an exponent with a bias of 127, or NaN (255).
Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3, 5.3.1 and 5.4.1.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact
from fp4jax.core.grids import E2M1, E4M3
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Float, Integer, Shaped, UInt8

E2M1_MAX = E2M1.maximum
E4M3_MAX = E4M3.maximum
FLT_MAX = np.float32(np.finfo(np.float32).max)

#: Magnitudes of the eight positive E2M1 codes, in code order.
E2M1_MAGNITUDES = E2M1.values
encode_e2m1, decode_e2m1 = E2M1.encode, E2M1.decode

# The byte of a NaN, as TransformerEngine's reference stores it.
_NAN_BYTE = np.uint8(0xFF)


def pack(codes: UInt8[Array, "*rows n"]) -> UInt8[Array, "*rows half"]:
    """Two 4-bit codes per byte along the last axis, low nibble = even index; zero fills a half."""
    if codes.shape[-1] % 2:
        codes = lax.pad(codes, jnp.uint8(0), [(0, 0, 0)] * (codes.ndim - 1) + [(0, 1, 0)])
    low, high = codes[..., 0::2], codes[..., 1::2]
    return low | (high << 4)


def unpack(packed: UInt8[Array, "*rows half"]) -> UInt8[Array, "*rows n"]:
    """The inverse of :func:`pack`; an odd length comes out longer by one."""
    pairs = jnp.stack([packed & jnp.uint8(15), packed >> 4], axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def round_e4m3(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Nearest E4M3 value (ties to even) of non-negative float32 numbers, as float32.

    Values above 448 become 448, NaN stays NaN, there is no floor: below 2**-10 the result is 0.
    Done in float32 arithmetic instead of a cast to float8 and back, because XLA may remove such a
    pair of casts (``xla_allow_excess_precision``); the result casts exactly.
    """
    return exact.round_mantissa(jnp.minimum(x, E4M3_MAX), 3, 2.0**-6)


def e4m3_bytes(values: Float[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """E4M3 values that :func:`round_e4m3` gave, as float8_e4m3fn; NaN has the byte 0xff."""
    stored = lax.bitcast_convert_type(values.astype(jnp.float8_e4m3fn), jnp.uint8)
    nan = exact.bits(values) & 0x7FFFFFFF > 0x7F800000
    return lax.bitcast_convert_type(jnp.where(nan, _NAN_BYTE, stored), jnp.float8_e4m3fn)


def e8m0_bytes(biased: Integer[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """Biased exponents, int32 from 0 to 255, as float8_e8m0fnu."""
    return lax.bitcast_convert_type(biased.astype(jnp.uint8), jnp.float8_e8m0fnu)


def e8m0_exponents(stored: Shaped[Array, "*shape"]) -> Integer[Array, "*shape"]:
    """The inverse of :func:`e8m0_bytes`."""
    return lax.bitcast_convert_type(stored, jnp.uint8).astype(jnp.int32)


def supported_float(dtype: DTypeLike) -> bool:
    """True for the dtypes that can be quantized: float32, bfloat16, float16."""
    return jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16, jnp.float16)


def float_array(name: str, x: Shaped[ArrayLike, "..."]) -> Shaped[Array, "..."]:
    """``x`` as a JAX array; ValueError unless it has a dtype that can be quantized."""
    # JAX silently turns NumPy's float64 into float32: look at the dtype before it does.
    dtype = getattr(x, "dtype", None) or jnp.asarray(x).dtype
    if not supported_float(dtype):
        raise ValueError(
            f"{name} has dtype {dtype}; NVFP4 quantizes float32, bfloat16 and float16. "
            f"Cast it first, for example {name}.astype(jnp.float32)."
        )
    return jnp.asarray(x)
