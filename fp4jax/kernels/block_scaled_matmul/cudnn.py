"""cuDNN's block-scaled product on Blackwell, through jax.nn.scaled_matmul, once it proved right."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from fp4jax.core import exact, formats
from fp4jax.core.blocks import BLOCK
from fp4jax.core.typing import Array, Float
from fp4jax.kernels import first_use
from fp4jax.kernels.block_scaled_matmul.operands import Packed

#: Architectures with FP4 tensor cores: data centre, Thor and workstation Blackwell.
MAJORS = (10, 11, 12)


def product(a: Packed, b: Packed) -> Float[Array, "m n"]:
    """``decoded(a) @ decoded(b).T`` with float32 sums; rows are those of the codes."""
    (out,) = _products(*(x[None] for packed in (a, b) for x in _operands(packed)))
    return out


def _operands(packed: Packed) -> tuple[Array, Array]:
    """float4 values (rows, k) and a scale for each row and 16 of k."""
    rows, half = packed.codes.shape
    # The barrier because JAX 0.10 computes nonsense from 4-bit views of constants.
    codes = exact.barrier(packed.codes)
    values = lax.bitcast_convert_type(codes, jnp.float4_e2m1fn).reshape(rows, 2 * half)
    scales = packed.block_scales
    if scales.shape[0] != rows:
        scales = jnp.repeat(scales, BLOCK, axis=0)
    return values, scales


@custom_vmap
def _products(a: Array, a_scales: Array, b: Array, b_scales: Array) -> Float[Array, "stack m n"]:
    return _scaled_matmul(a, b, a_scales, b_scales)


@_products.def_vmap
def _stacked(axis_size, in_batched, *operands):
    """Stacks become one longer stack: JAX 0.10 batches this only if all operands are batched."""
    stack = operands[0].shape[1 if in_batched[0] else 0]
    flat = []
    for x, batched in zip(operands, in_batched, strict=True):
        x = x if batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
        flat.append(x.reshape(axis_size * stack, *x.shape[2:]))
    out = _products(*flat)
    return out.reshape(axis_size, stack, *out.shape[1:]), True


def _scaled_matmul(a: Array, b: Array, a_scales: Array, b_scales: Array) -> Array:
    return jax.nn.scaled_matmul(a, b, a_scales, b_scales, preferred_element_type=jnp.float32)


def objection(capability: tuple[int, int]) -> str | None:
    """Why cuDNN is not to be used on such a GPU, or None; found out by a small product.

    A failure is warned of, once.
    """
    return first_use.not_at_hand(capability) or first_use.objection(
        "cuDNN's block-scaled product",
        capability,
        lambda: difference(),
        instead="fp4jax.kernels does without it.",
    )


def difference() -> str | None:
    """What differs between a product and the reference, in words; None if nothing does.

    With block scales of 1 every product is a multiple of 1/4 and sums are exact in any order, so
    that the result must equal the reference's bit for bit.
    """
    m, n, k = 128, 128, 256
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (rows, k // 2), dtype=np.uint8) for rows in (m, n))
    expected = _values(a) @ _values(b).T
    ones = np.ones((m, k // BLOCK), jnp.float8_e4m3fn)
    run = jax.jit(lambda a, b, s: product(Packed(a, s), Packed(b, s)))
    wrong = int((np.asarray(run(a, b, ones)) != expected).sum())
    return f"{wrong} of {expected.size} values are wrong" if wrong else None


def _values(packed: np.ndarray) -> np.ndarray:
    """float32 code values of packed codes."""
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    magnitudes = formats.E2M1_MAGNITUDES[codes & 7]
    return np.where(codes & 8, -magnitudes, magnitudes)
