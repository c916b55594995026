"""nnx.ConvTranspose with an injection slot, which Flax's lacks."""

import math
from typing import Any

from flax import nnx
from flax.nnx.nn.linear import canonicalize_padding
from jax import lax

from fp4jax.core.typing import Array
from fp4jax.ops.convolution.circular import wrapped


class ConvTranspose(nnx.ConvTranspose):
    """``nnx.ConvTranspose`` whose convolution is in a slot, ``conv_transpose``.

    :func:`fp4jax.nnx.apply_recipe` turns a model's layers into it. Same parameters, same result.

    Example:
        >>> import jax.numpy as jnp
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
            y = wrapped(y, x.shape, strides, self.transpose_kernel)
        if bias is not None:
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y.reshape(*batch, *y.shape[1:])
