"""From packed E2M1 codes and E4M3 block scales to bfloat16, in a kernel: by PTX, or portably.

A byte holds two codes. The low nibbles of a tile of bytes (even k) and the high ones (odd k) are
decoded to two tiles and multiplied with the even and the odd columns of the other operand, so
that nothing is interleaved in the kernel: a product does not care in which order k runs.

The PTX decodes four bytes, one 32-bit register, to two registers of two bfloat16 each, in order:
Triton decides which four elements a thread holds, so that only what is done to each alone is
right. A code s|e|e|m whose sign is put at bit 15 and whose e|e|m at bits 8 to 6 is, read as
bfloat16, the code's value times 2**-126 (a subnormal's, too). A scale byte at bits 10 to 4 is the
scale times 2**-120. Products must be normal numbers, so scales are multiplied by 2**239 in two
steps, and

    decoded = (code * 2**-126) * (scale * 2**119) = code * scale * 2**-7

is exact: 6 significant bits and exponents from -17 to 4. The kernel multiplies its sums by 2**7.
Same idea as the dequantizers of Marlin (arXiv 2408.11743).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton

from fp4jax.core import formats
from fp4jax.core.blocks import BLOCK
from fp4jax.core.typing import Array, Float, Shaped, UInt8

#: Elements that one piece of PTX decodes at once.
PACK = 4
#: What sums of products with decoded values are to be multiplied with.
UNBIAS = 2.0**7

_SIGN, _MAGNITUDE = "0x80008000", "0x01C001C0"
# bfloat16 pairs: -0 (x * y + -0 = x * y on every architecture), 2**120 and 2**119.
_MINUS_ZERO, _TWO_120, _TWO_119 = "0x80008000", "0x7B807B80", "0x7B007B00"


def _nibbles(shift: int) -> str:
    """PTX that decodes one nibble of each of the four bytes in $2, times the scales in $3 and $4.

    ``shift`` brings it to the upper half of its byte; then bytes go to the upper halves of the
    halfwords of u, where the sign is in place and the rest 6 bits too high.
    """
    text = f"""{{
    .reg .b32 x, t, u, z;
    mov.b32 z, {_MINUS_ZERO};
    shl.b32 x, $2, {shift};"""
    for out, scale, bytes_ in (("$0", "$3", "0x1404"), ("$1", "$4", "0x3424")):
        text += f"""
    prmt.b32 u, x, 0, {bytes_};
    shr.u32 t, u, 6;
    and.b32 t, t, {_MAGNITUDE};
    lop3.b32 u, u, {_SIGN}, t, 0xEA;
    fma.rn.bf16x2 {out}, u, {scale}, z;"""
    return text + "\n}"


LOW = _nibbles(shift=4)
HIGH = _nibbles(shift=0)
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

    Scale bytes must be finite and non-negative, as those of a QTensor without NaN are.
    """
    if scale_bytes.size % PACK:
        scales = (decode_e4m3(scale_bytes) * np.float32(2.0**119)).astype(jnp.bfloat16)
    else:
        scales = _asm(SCALES, "=r,=r,r", scale_bytes)
    scales = _per_byte(scales, codes.shape)
    return _asm(LOW, "=r,=r,r,r,r", codes, scales), _asm(HIGH, "=r,=r,r,r,r", codes, scales)


def portably(
    codes: UInt8[Array, "n half"], scale_bytes: UInt8[Array, "rows blocks"]
) -> tuple[Array, Array]:
    """Even and odd columns of code value * block scale, in float32.

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


def arrange(a: Shaped[Array, "m k"]) -> Shaped[Array, "2 m half"]:
    """Even and odd columns of ``a``.

    Example:
        >>> import jax.numpy as jnp
        >>> arrange(jnp.arange(6)[None]).tolist()
        [[[0, 2, 4]], [[1, 3, 5]]]
    """
    m, k = a.shape
    return a.reshape(m, k // 2, 2).transpose(2, 0, 1)


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
