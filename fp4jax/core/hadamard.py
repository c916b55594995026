"""Random Hadamard transform (RHT) of 16 along an axis, and its inverse.

y = x diag(signs) H16 / 4 for every run of 16 along the axis, with H16 the Sylvester matrix.
The transform is orthogonal: applied to both operands of a product along the contracted axis it
cancels, while it spreads outliers over a block. Source: NVIDIA, "Pretraining LLMs with NVFP4"
(arXiv 2509.25149), section 4; the default signs are TransformerEngine's.

The order in which 16 numbers are added decides the last bit of a float32 sum that is not exact
(sums of bfloat16 numbers of like size are). It is the fast transform's: neighbours, then
neighbouring pairs, and so on; the same in jnp and in the fused kernels, on every machine. But for
one case: along the last axis of an array on CPU it is that of XLA's matrix product, which depends
on the shape, the processor and JAX's version. That product is kept because pairs take 2.9 times as
long there (``fake_quantize`` of 4096 x 4096 float32, two cores). Recipes that rotate in wgrad,
which contracts positions, never do so; ``forward_only+rht`` rotates x along the last axis.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core import formats, sharding
from fp4jax.core.blocks import BLOCK, BlockView, normalize_axes
from fp4jax.core.platform import by_platform
from fp4jax.core.typing import Array, ArrayLike, Float, Shaped

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
    return _rotate(formats.float_array("x", x), axis, _Signs(before=_checked(signs)))


def inverse_random_hadamard(
    y: Shaped[ArrayLike, "..."], axis: int = -1, signs: Sequence[int] = DEFAULT_SIGNS
) -> Shaped[Array, "..."]:
    """Undoes :func:`random_hadamard` (up to rounding); a padded length stays padded."""
    return _rotate(formats.float_array("y", y), axis, _Signs(after=_checked(signs)))


class _Signs(NamedTuple):
    """diag(before) H16 diag(after)."""

    before: tuple[int, ...] = (1,) * BLOCK
    after: tuple[int, ...] = (1,) * BLOCK

    def matrix(self) -> np.ndarray:
        """diag(before) H16 diag(after) / 4."""
        hadamard = np.ones((1, 1), np.float32)
        while len(hadamard) < BLOCK:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        before, after = (np.asarray(signs, np.float32) for signs in self)
        return before[:, None] * hadamard * after / np.float32(4)


def _checked(signs: Sequence[int]) -> tuple[int, ...]:
    array = np.asarray(signs)
    if array.shape != (BLOCK,) or not np.all(np.abs(array) == 1):
        raise ValueError(f"signs is {signs!r}; give {BLOCK} numbers, each +1 or -1.")
    return tuple(int(sign) for sign in array)


def _rotate(x: Array, axis: int, signs: _Signs) -> Array:
    (axis,) = normalize_axes(axis, (1, BLOCK), x.ndim)
    rotate = functools.partial(_rotate_axis, axis=axis, signs=signs)
    return sharding.automatic(rotate, sharding.with_whole_axis(x, axis))(x)


def _rotate_axis(x: Array, axis: int, signs: _Signs) -> Array:
    view = BlockView(x.shape, (axis,))
    blocked = view.split(x.astype(jnp.float32))
    add_in_pairs = functools.partial(in_pairs, inner=axis + 1, signs=signs)
    if axis == x.ndim - 1:
        multiply = functools.partial(_multiply, signs=signs)
        rotated = by_platform(blocked, cpu=multiply, default=add_in_pairs)
    else:
        rotated = add_in_pairs(blocked)
    rotated = rotated.reshape(view.padded_shape)
    if x.dtype == jnp.bfloat16:
        # Not a cast to bfloat16 and back: XLA may drop such a pair when it is fused.
        rotated = lax.reduce_precision(rotated, exponent_bits=8, mantissa_bits=7)
        return rotated.astype(jnp.bfloat16)
    return rotated


def in_pairs(blocked: Float[Array, "..."], inner: int, signs: _Signs) -> Float[Array, "..."]:
    """Transforms axis ``inner`` (of 16) by four rounds of sums and differences of two.

    Each result is the sum of a tree over the 16 numbers, in which a right child enters with the
    sign that belongs to this result. 1/4 comes first, so that sums near FLT_MAX do not overflow;
    products with a sign are exact, so that a fused multiply-add changes nothing.
    """

    def along(values: Sequence[int]) -> Array:
        shape = [1] * blocked.ndim
        shape[inner] = BLOCK
        return jnp.asarray(values, jnp.float32).reshape(shape)

    parts = [
        lax.slice_in_dim(blocked, k, k + 1, axis=inner) * np.float32(sign / 4)
        for k, sign in enumerate(signs.before)
    ]
    for bit in (1, 2, 4, 8):
        sign = along([-1 if j & bit else 1 for j in range(BLOCK)])
        parts = [a + b * sign for a, b in zip(parts[0::2], parts[1::2], strict=True)]
    return parts[0] if min(signs.after) > 0 else parts[0] * along(signs.after)


def _multiply(blocked: Float[Array, "..."], signs: _Signs) -> Float[Array, "..."]:
    """Contracts the last axis (of 16) with the matrix.

    The matrix holds 1/4, so that sums near FLT_MAX do not overflow.
    """
    if blocked.size == 0:
        return blocked
    return lax.dot_general(
        blocked,
        jnp.asarray(signs.matrix()),
        (((blocked.ndim - 1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )
