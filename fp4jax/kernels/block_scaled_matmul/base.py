"""The reference of :func:`scaled_matmul`, in jax.numpy: decode the weights, then one product.

On GPUs it is also the way of large products: decoded weights are exact in bfloat16, and the
vendor's GEMM multiplies them.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import exact, formats
from fp4jax.core.blocks import BLOCK
from fp4jax.core.platform import by_platform
from fp4jax.core.qtensor import QTensor
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Float, Shaped, UInt8
from fp4jax.kernels.block_scaled_matmul.checks import check_decoded_dtype, check_quantized
from fp4jax.kernels.block_scaled_matmul.decode import arrange
from fp4jax.kernels.block_scaled_matmul.operands import Decoded
from fp4jax.ops import gemm
from fp4jax.ops.gemm import Operand


def decode(b: QTensor | Shaped[ArrayLike, "..."], dtype: DTypeLike = jnp.bfloat16) -> Decoded:
    """A right operand of :func:`scaled_matmul`, decoded once: four times the memory, or eight.

    For many products of more than 128 rows with the same weights, each of which would decode them
    on its own: 2.6 bytes of memory traffic per weight. Results are the same.

    Args:
        b: shape (k, n), quantized along k.
        dtype: bfloat16, or float32 on CPU, where bfloat16 is converted in each product.

    Returns:
        A pytree to pass to ``scaled_matmul`` in place of ``b``.

    Example:
        >>> import jax, jax.numpy as jnp, fp4jax as fp4
        >>> w = jax.random.normal(jax.random.key(0), (32, 8))
        >>> decoded = decode(fp4.quantize(w, fp4.TensorSpec(), axis=0))
        >>> decoded.shape, decoded.nbytes
        ((32, 8), 512)
    """
    check_quantized("b", b, contracted=-2)
    check_decoded_dtype(dtype)
    values = decoded_rows(b.in_rotated_basis(), dtype)  # pyright: ignore
    rotated = b.shape[-2] if b.spec.hadamard else None  # pyright: ignore
    return Decoded(values, tensor_scale(b), rotated)  # pyright: ignore[reportArgumentType]


def tensor_scale(q: QTensor | Decoded) -> Float[Array, ""]:
    """What the accumulator is multiplied with."""
    return q.scale if isinstance(q, Decoded) else exact.divide(q.amax, q.bound)


def decoded_rows(q: QTensor, dtype: DTypeLike = jnp.bfloat16) -> Shaped[Array, "rows k"]:
    """Code value x block scale, k last, without padding: (m, k), or (n, k) for weights.

    Exact in bfloat16, and so in any ``dtype`` that contains it. A rotated matrix comes in its
    rotated basis if that is asked for, ``q.in_rotated_basis()``.
    """
    if q.spec.hadamard:
        raise ValueError("q is rotated (spec.hadamard); give q.in_rotated_basis().")
    *_, k = q.lengths
    rows = q.lengths[0] if len(q.lengths) == 2 else q.codes.shape[0]
    return decoded_blocks(q.codes, q.block_scales)[:rows, :k].astype(dtype)


def decoded_blocks(
    codes: UInt8[Array, "rows half"], block_scales: Shaped[Array, "tiles blocks"]
) -> Shaped[Array, "rows k"]:
    """Code value x block scale of packed codes, padding included; bfloat16, which is exact.

    Both values of a byte are put into one 32-bit word, so that XLA needs one pass. A view of the
    bytes as 4-bit numbers would do, too, but JAX 0.10 computes nonsense from it if the codes are
    constants of the program, and XLA cannot convert float4 on every Blackwell GPU.
    """
    even, odd = (lax.bitcast_convert_type(x, jnp.uint32) for x in even_and_odd(codes, block_scales))
    pairs = lax.bitcast_convert_type(even >> 16 | odd, jnp.bfloat16)
    return pairs.reshape(codes.shape[0], 2 * codes.shape[1])


def even_and_odd(
    codes: UInt8[Array, "rows half"], block_scales: Shaped[Array, "tiles blocks"]
) -> tuple[Float[Array, "rows half"], Float[Array, "rows half"]]:
    """Code value x block scale at even and at odd k, in float32."""
    scales = jnp.repeat(block_scales.astype(jnp.float32), BLOCK // 2, axis=1)
    if scales.shape[0] != codes.shape[0]:
        scales = jnp.repeat(scales, BLOCK, axis=0)
    low, high = codes & jnp.uint8(15), codes >> 4
    return formats.decode_e2m1(low) * scales, formats.decode_e2m1(high) * scales


def scaled_matmul(a: Array | QTensor, b: QTensor | Decoded, out_dtype: DTypeLike) -> Array:
    """``a @ b`` on checked arguments: products in float32, times the scale of a, times that of b.

    For float32 ``a`` with full float32 products on every device.
    """
    anywhere = functools.partial(_by_decoding, out_dtype=out_dtype)
    if isinstance(b, Decoded):
        return anywhere(a, b)
    return by_platform(a, b, cpu=functools.partial(_on_cpu, out_dtype=out_dtype), default=anywhere)


def _by_decoding(a: Array | QTensor, b: QTensor | Decoded, out_dtype: DTypeLike) -> Array:
    """b, and a if it is quantized, decoded to bfloat16."""
    quantized = isinstance(a, QTensor)
    left = Operand(decoded_rows(a), tensor_scale(a)) if quantized else Operand(a, None)
    values = b.values if isinstance(b, Decoded) else decoded_rows(b)
    return gemm.contract(
        left,
        Operand(values, tensor_scale(b)),
        functools.partial(lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ()))),
        out_dtype,
        _precision(left.values),
    )


def _on_cpu(a: Array | QTensor, b: QTensor, out_dtype: DTypeLike) -> Array:
    """Even and odd k apart: two products cost less than to interleave decoded values (measured)."""
    scales = [tensor_scale(b)]
    right = even_and_odd(b.codes, b.block_scales)
    if isinstance(a, QTensor):
        scales.insert(0, tensor_scale(a))
        left = even_and_odd(a.codes, a.block_scales)
    else:
        padding = 2 * b.codes.shape[1] - a.shape[1]
        left = arrange(jnp.pad(a.astype(jnp.float32), ((0, 0), (0, padding))))
    dot = functools.partial(lax.dot_general, dimension_numbers=(((1,), (1,)), ((), ())))
    accumulator = dot(left[0], right[0]) + dot(left[1], right[1])
    return scaled(accumulator[: a.shape[0], : b.shape[1]], scales, out_dtype)


def gradient(g: Shaped[Array, "m n"], b: QTensor | Decoded, out_dtype: DTypeLike) -> Array:
    """``g @ b.T``: the gradient with respect to ``a``, straight through the rounding of b."""
    values = b.values if isinstance(b, Decoded) else decoded_rows(b)
    return gemm.contract(
        Operand(g, None),
        Operand(values, tensor_scale(b)),
        functools.partial(lax.dot_general, dimension_numbers=(((1,), (0,)), ((), ()))),
        out_dtype,
        _precision(g),
    )


def scaled(
    accumulator: Float[Array, "m n"], scales: list[Float[Array, ""]], out_dtype: DTypeLike
) -> Shaped[Array, "m n"]:
    """The accumulator times each tensor scale in turn."""
    for scale in scales:
        accumulator = accumulator * scale
    return accumulator.astype(out_dtype)


def _precision(a: Array) -> lax.Precision | None:
    return lax.Precision.HIGHEST if a.dtype == np.float32 else None
