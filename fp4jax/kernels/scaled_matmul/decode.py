"""From packed E2M1 codes and E4M3 block scales to bfloat16, in a kernel: by PTX, or portably.

A byte holds two codes. The low nibbles of a tile of bytes (even k) and the high ones (odd k) are
decoded to two tiles and multiplied with the even and the odd columns of the other operand, so
that nothing is interleaved in the kernel: a product does not care in which order k runs.

The PTX decodes four bytes, one 32-bit register, to two registers of two bfloat16 each. A code
s|e|e|m whose sign is put at bit 15 and whose e|e|m at bits 8 to 6 is, read as bfloat16, the code's
value times 2**-126 (a subnormal's, too). A scale byte at bits 10 to 4 is the scale times 2**-120.
Products must stay normal numbers, so the scale is multiplied by 2**239 in two steps, and

    decoded = code * 2**-126 * scale * 2**119 = code * scale * 2**-7

is exact: 6 significant bits and exponents from -17 to 4. The kernel multiplies its sums by 2**7.
Registers hold the bytes' values in the order 0, 2, 1, 3: :func:`arrange` gives the other operand
the same order. Same idea as the dequantizers of Marlin (arXiv 2408.11743).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton

from fp4jax import formats
from fp4jax.blocks import BLOCK
from fp4jax.typing import Array, Float, Shaped, UInt8

#: Elements that one piece of PTX decodes at once.
PACK = 4
#: What sums of products with decoded values are to be multiplied with.
UNBIAS = 2.0**7

_SIGN, _MAGNITUDE = "0x80008000", "0x01C001C0"
# bfloat16 pairs: -0 (x * y + -0 = x * y on every architecture), 2**120 and 2**119.
_MINUS_ZERO, _TWO_120, _TWO_119 = "0x80008000", "0x7B807B80", "0x7B007B00"


def _pair(out: str, sign_shift: int, scale: str) -> str:
    """Two codes, each at bits (15 - sign_shift) and below of a halfword, times ``scale``."""
    magnitude_shift = sign_shift - 6
    place = f"shl.b32 t, $2, {magnitude_shift}"
    if magnitude_shift < 0:
        place = f"shr.u32 t, $2, {-magnitude_shift}"
    return f"""
    shl.b32 u, $2, {sign_shift};
    {place};
    and.b32 t, t, {_MAGNITUDE};
    lop3.b32 u, u, {_SIGN}, t, 0xEA;
    fma.rn.bf16x2 {out}, u, {scale}, z;"""


def _nibbles(even_byte: int, odd_byte: int) -> str:
    """PTX that decodes one nibble of each of four bytes ($2), times the scales in $3 and $4."""
    pairs = _pair("$0", even_byte, "$3") + _pair("$1", odd_byte, "$4")
    return f"{{\n    .reg .b32 t, u, z;\n    mov.b32 z, {_MINUS_ZERO};{pairs}\n}}"


LOW = _nibbles(even_byte=12, odd_byte=4)
HIGH = _nibbles(even_byte=8, odd_byte=0)
SCALES = f"""{{
    .reg .b32 t, u, a, b, z;
    mov.b32 z, {_MINUS_ZERO};
    mov.b32 a, {_TWO_120};
    mov.b32 b, {_TWO_119};
    prmt.b32 t, $2, 0, 0x4140;
    prmt.b32 u, $2, 0, 0x4342;
    shl.b32 t, t, 4;
    shl.b32 u, u, 4;
    fma.rn.bf16x2 t, t, a, z;
    fma.rn.bf16x2 u, u, a, z;
    fma.rn.bf16x2 $0, t, b, z;
    fma.rn.bf16x2 $1, u, b, z;
}}"""


def by_ptx(
    codes: UInt8[Array, "n half"], scale_bytes: UInt8[Array, "rows blocks"]
) -> tuple[Array, Array]:
    """Even and odd columns of code value * block scale * 2**-7, in bfloat16; in a GPU kernel.

    Columns are in the order of ``arrange(..., permuted=True)``. Scale bytes must be finite and
    non-negative, as those of a QTensor without NaN are.
    """
    scales = _asm(SCALES, "=r,=r,r", scale_bytes)
    scales = _per_byte(scales, codes.shape)
    return _asm(LOW, "=r,=r,r,r,r", codes, scales), _asm(HIGH, "=r,=r,r,r,r", codes, scales)


def portably(
    codes: UInt8[Array, "n half"], scale_bytes: UInt8[Array, "rows blocks"]
) -> tuple[Array, Array]:
    """Even and odd columns of code value * block scale, in float32, in their own order.

    Safe where subnormal numbers are flushed to zero.
    """
    scales = _per_byte(decode_e4m3(scale_bytes), codes.shape)
    low, high = codes & jnp.uint8(15), codes >> 4
    return formats.decode_e2m1(low) * scales, formats.decode_e2m1(high) * scales


def decode_e4m3(scale_bytes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """float32 values of non-negative E4M3 bytes, by integer arithmetic.

    Example:
        >>> import jax.numpy as jnp
        >>> decode_e4m3(jnp.array([0, 1, 0x38, 0x7E], jnp.uint8)).tolist()
        [0.0, 0.001953125, 1.0, 448.0]
    """
    bits = scale_bytes.astype(jnp.uint32) & jnp.uint32(0x7F)
    normal = lax.bitcast_convert_type((bits << 20) + jnp.uint32(120 << 23), jnp.float32)
    subnormal = bits.astype(jnp.float32) * np.float32(2**-9)
    value = jnp.where(bits < 8, subnormal, normal)
    return jnp.where(bits == 0x7F, np.float32(np.nan), value)


def arrange(a: Shaped[Array, "m k"], permuted: bool) -> Shaped[Array, "2 m half"]:
    """Even and odd columns of ``a``; ``permuted`` as the PTX decodes them (k a multiple of 8).

    Example:
        >>> import jax.numpy as jnp
        >>> arrange(jnp.arange(8)[None], permuted=True).tolist()
        [[[0, 4, 2, 6]], [[1, 5, 3, 7]]]
    """
    m, k = a.shape
    if not permuted:
        return a.reshape(m, k // 2, 2).transpose(2, 0, 1)
    # byte 2 h + l of four goes to place 2 l + h
    return a.reshape(m, k // 8, 2, 2, 2).transpose(4, 0, 1, 3, 2).reshape(2, m, k // 2)


def _per_byte(scales: Array, shape: tuple[int, ...]) -> Array:
    """Scales of blocks of (1 or 16) x 16 codes, repeated for each byte of codes."""
    (n, half), (rows, blocks) = shape, scales.shape
    tall, wide = n // rows, BLOCK // 2
    if tall == 1:
        repeated = jnp.broadcast_to(scales[:, :, None], (n, blocks, wide))
    else:
        repeated = jnp.broadcast_to(scales[:, None, :, None], (rows, tall, blocks, wide))
    return repeated.reshape(n, half)


def _asm(text: str, constraints: str, *args: Array) -> Array:
    (result,) = triton.elementwise_inline_asm(
        text,
        args=args,
        constraints=constraints,
        pack=PACK,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, jnp.bfloat16)],
    )
    return result
