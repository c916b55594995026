"""Random Hadamard transform (RHT) of 16 along an axis, and its inverse.

y = x diag(signs) H16 / 4 for every run of 16 along the axis, with H16 the Sylvester matrix.
The transform is orthogonal: applied to both operands of a product along the contracted axis it
cancels, while it spreads outliers over a block. Source: NVIDIA, "Pretraining LLMs with NVFP4"
(arXiv 2509.25149), section 4; the default signs are TransformerEngine's.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax import formats, sharding
from fp4jax.blocks import BLOCK, BlockView, normalize_axes
from fp4jax.typing import Array, ArrayLike, Float, Shaped

#: TransformerEngine's fixed sign vector.
DEFAULT_SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)


def random_hadamard(
    x: Shaped[ArrayLike, "..."], axis: int = -1, signs: Sequence[int] = DEFAULT_SIGNS
) -> Shaped[Array, "..."]:
    """Rotates every run of 16 along ``axis``; a remainder is padded with zeros.

    bfloat16 is rotated in float32 and rounded once, as TransformerEngine does; float32 and
    float16 give float32.

    Args:
        x: float32, bfloat16 or float16 of rank 1 or more.
        axis: the axis to rotate along.
        signs: 16 signs, +1 or -1.

    Returns:
        x's shape with ``axis`` padded to a multiple of 16; bfloat16 for bfloat16, else float32.

    Example:
        >>> import jax.numpy as jnp
        >>> y = random_hadamard(jnp.ones((2, 16)))
        >>> y.shape, float((y**2).sum())
        ((2, 16), 32.0)
    """
    return _rotate(formats.float_array("x", x), axis, _matrix(signs))


def inverse_random_hadamard(
    y: Shaped[ArrayLike, "..."], axis: int = -1, signs: Sequence[int] = DEFAULT_SIGNS
) -> Shaped[Array, "..."]:
    """Undoes :func:`random_hadamard` (up to rounding); a padded length stays padded."""
    return _rotate(formats.float_array("y", y), axis, _matrix(signs).T)


def _matrix(signs: Sequence[int]) -> np.ndarray:
    """diag(signs) H16 / 4."""
    signs_array = np.asarray(signs, np.float32)
    if signs_array.shape != (BLOCK,) or not np.all(np.abs(signs_array) == 1):
        raise ValueError(f"signs is {signs!r}; give {BLOCK} numbers, each +1 or -1.")
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < BLOCK:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return signs_array[:, None] * hadamard / np.float32(4)


def _rotate(x: Array, axis: int, matrix: np.ndarray) -> Array:
    (axis,) = normalize_axes(axis, (1, BLOCK), x.ndim)
    rotate = functools.partial(_rotate_axis, axis=axis, matrix=matrix)
    return sharding.automatic(rotate, sharding.with_whole_axis(x, axis))(x)


def _rotate_axis(x: Array, axis: int, matrix: np.ndarray) -> Array:
    view = BlockView(x.shape, (axis,))
    blocked = view.split(x.astype(jnp.float32))
    rotated = _rotate_blocks(blocked, axis + 1, matrix).reshape(view.padded_shape)
    if x.dtype == jnp.bfloat16:
        # Not a cast to bfloat16 and back: XLA may drop such a pair when it is fused.
        rotated = lax.reduce_precision(rotated, exponent_bits=8, mantissa_bits=7)
        return rotated.astype(jnp.bfloat16)
    return rotated


def _rotate_blocks(
    blocked: Float[Array, "..."], inner: int, matrix: np.ndarray
) -> Float[Array, "..."]:
    """Contracts axis ``inner`` (of 16) with the matrix, in place.

    The matrix holds 1/4, so that sums near FLT_MAX do not overflow. HIGHEST keeps float32 on GPUs.
    """
    highest = lax.Precision.HIGHEST
    if blocked.size == 0:
        return blocked
    if inner == blocked.ndim - 1:
        return lax.dot_general(
            blocked, jnp.asarray(matrix), (((inner,), (0,)), ((), ())), precision=highest
        )
    # One small product per block: three times faster on CPU than contracting a middle axis.
    blocks = blocked.reshape(-1, BLOCK, int(np.prod(blocked.shape[inner + 1 :])))
    stacked = jnp.broadcast_to(jnp.asarray(matrix.T), (blocks.shape[0], BLOCK, BLOCK))
    product = lax.dot_general(stacked, blocks, (((2,), (1,)), ((0,), (0,))), precision=highest)
    return product.reshape(blocked.shape)
