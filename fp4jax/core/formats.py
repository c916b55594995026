"""E2M1 and E4M3: the two number formats of NVFP4, and two E2M1 codes per byte.

An E2M1 code has 4 bits: bit 3 is the sign, bits 0-2 index the magnitudes
0, 0.5, 1, 1.5, 2, 3, 4, 6. An E4M3 byte (``float8_e4m3fn``) holds a block scale of at most 448.
Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 and 5.3.1.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Float, Shaped, UInt8

E2M1_MAX = np.float32(6)
E4M3_MAX = np.float32(448)
FLT_MAX = np.float32(np.finfo(np.float32).max)

#: Magnitudes of the eight positive E2M1 codes, in code order.
E2M1_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)

# The byte of a NaN, as TransformerEngine's reference stores it.
_NAN_BYTE = np.uint8(0xFF)

# float32 bits of a normal E2M1 magnitude, shifted right by 22, are its code plus this offset:
# one mantissa bit survives the shift, and code 2 (the value 1.0) has exponent field 127.
_CODE_OFFSET = (127 << 1) - 2


def encode_e2m1(values: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """4-bit codes of float32 values that lie on the E2M1 grid; NaN becomes code 0.

    Example:
        >>> import jax.numpy as jnp
        >>> encode_e2m1(jnp.array([0.0, 0.5, -1.5, 6.0])).tolist()
        [0, 1, 11, 7]
    """
    bits = lax.bitcast_convert_type(values, jnp.uint32)
    magnitude = (bits >> 22) & jnp.uint32(0x1FF)
    # 0 and 0.5 are E2M1's zero and subnormal: their codes are not a shift of the float32 bits.
    code = jnp.where(
        magnitude >= _CODE_OFFSET + 2,
        magnitude - jnp.uint32(_CODE_OFFSET),
        (magnitude > 0).astype(jnp.uint32),
    )
    code = code | ((bits >> 28) & jnp.uint32(8))
    return jnp.where(jnp.isnan(values), jnp.uint32(0), code).astype(jnp.uint8)


def decode_e2m1(codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """float32 values of 4-bit codes.

    Example:
        >>> import jax.numpy as jnp
        >>> decode_e2m1(jnp.array([1, 7, 15], jnp.uint8)).tolist()
        [0.5, 6.0, -6.0]
    """
    codes = codes.astype(jnp.uint32)
    magnitude = codes & jnp.uint32(7)
    normal = lax.bitcast_convert_type((magnitude + jnp.uint32(_CODE_OFFSET)) << 22, jnp.float32)
    small = magnitude.astype(jnp.float32) * np.float32(0.5)
    value = jnp.where(magnitude < 2, small, normal)
    return jnp.where(codes < 8, value, -value)


def pack(codes: UInt8[Array, "*rows n"]) -> UInt8[Array, "*rows half"]:
    """Two 4-bit codes per byte along the last axis (even length), low nibble = even index."""
    low, high = codes[..., 0::2], codes[..., 1::2]
    return low | (high << 4)


def unpack(packed: UInt8[Array, "*rows half"]) -> UInt8[Array, "*rows n"]:
    """The inverse of :func:`pack`."""
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
