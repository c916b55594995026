"""nnx.ConvTranspose with an injection slot, which Flax's lacks."""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import canonicalize_padding
from jax import lax

from fp4jax.core.typing import Array


class ConvTranspose(nnx.ConvTranspose):
    """``nnx.ConvTranspose`` whose convolution is in a slot, ``conv_transpose``.

    :func:`fp4jax.nnx.apply_recipe` turns a model's layers into it. Same parameters, same result.

    Example:
        >>> layer = ConvTranspose(16, 8, (2, 2), (2, 2), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 3, 4, 16))).shape
        (1, 6, 8, 8)
    """

    conv_transpose: Any = staticmethod(lax.conv_transpose)

    def __call__(self, inputs: Array) -> Array:
        space = len(self.kernel_size)
        strides, dilation = (
            (n or 1,) * space if n is None or isinstance(n, int) else tuple(n)
            for n in (self.strides, self.kernel_dilation)
        )
        kernel = self.kernel[...]
        if self.mask is not None:
            kernel = kernel * self.mask
        bias = None if self.bias is None else self.bias[...]
        batch = inputs.shape[: inputs.ndim - space - 1]
        inputs, kernel, bias = self.promote_dtype((inputs, kernel, bias), dtype=self.dtype)
        x = inputs.reshape(math.prod(batch), *inputs.shape[inputs.ndim - space - 1 :])
        circular = self.padding == "CIRCULAR"
        y = self.conv_transpose(
            x,
            kernel,
            strides,
            "VALID" if circular else canonicalize_padding(self.padding, space),
            rhs_dilation=dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if circular:
            for axis, stride in enumerate(strides, start=1):
                y = _wrap(y, axis, x.shape[axis] * stride, self.transpose_kernel)
        if bias is not None:
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*batch, *y.shape[1:])


def _wrap(y: Array, axis: int, period: int, odd_on_the_right: bool) -> Array:
    """Adds up what lies a whole number of periods apart, centred as Flax centres it."""
    missing = -(y.shape[axis] - period) % (2 * period)
    low = missing // 2 if odd_on_the_right else -(-missing // 2)
    config = [(0, 0, 0)] * y.ndim
    config[axis] = (low, missing - low, 0)
    padded = lax.pad(y, jnp.zeros((), y.dtype), config)
    shape = padded.shape
    return padded.reshape(*shape[:axis], -1, period, *shape[axis + 1 :]).sum(axis)
