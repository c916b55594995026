"""Circular padding of transposed convolutions, as Flax has it: the result is wrapped around."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array, Shaped


def wrapped(
    y: Shaped[Array, "..."], shape: Sequence[int], strides: Sequence[int], odd_on_the_right: bool
) -> Shaped[Array, "..."]:
    """The "VALID" result of a transposed convolution, each spatial axis wrapped to its period.

    Args:
        y: (b, *space, c).
        shape: of the input, (b, *space, c); a period is its length times the stride.
        strides: of each spatial axis.
        odd_on_the_right: where Flax centres what is left over, its ``transpose_kernel``.

    Example:
        >>> wrapped(jnp.arange(4.0).reshape(1, 4, 1), (1, 3, 1), (1,), True).ravel().tolist()
        [1.0, 2.0, 3.0]
    """
    for axis, stride in enumerate(strides, start=1):
        y = _wrap(y, axis, shape[axis] * stride, odd_on_the_right)
    return y


def _wrap(y: Array, axis: int, period: int, odd_on_the_right: bool) -> Array:
    """Adds up what lies a whole number of periods apart, centred as Flax centres it."""
    missing = -(y.shape[axis] - period) % (2 * period)
    low = missing // 2 if odd_on_the_right else -(-missing // 2)
    config = [(0, 0, 0)] * y.ndim
    config[axis] = (low, missing - low, 0)
    padded = lax.pad(y, jnp.zeros((), y.dtype), config)
    shape = padded.shape
    return padded.reshape(*shape[:axis], -1, period, *shape[axis + 1 :]).sum(axis)
