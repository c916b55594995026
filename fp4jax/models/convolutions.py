"""Convolutions of two or three dimensions with torch's padding and initial weights."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, DTypeLike, Float
from fp4jax.models.initializers import torch_default
from fp4jax.models.layers import Conv, Downsample, Upsample
from fp4jax.models.norms import InstanceNorm, leaky_relu


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    spatial_dims: int,
    strides: int | tuple[int, ...] = 1,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> Conv:
    """A convolution padded by (kernel - 1) / 2 on both sides, for an odd kernel.

    An axis of n pixels becomes ceil(n / stride).
    """
    return Conv(
        inputs,
        outputs,
        (kernel,) * spatial_dims,
        strides,
        padding=kernel // 2,
        use_bias=use_bias,
        dtype=dtype,
        rngs=rngs,
        **torch_default(inputs * kernel**spatial_dims),
    )


def pointwise(
    inputs: int,
    outputs: int,
    *,
    spatial_dims: int,
    use_bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> Downsample:
    """A convolution of kernel 1, as a matrix product."""
    return Downsample(
        inputs,
        outputs,
        patch=1,
        spatial_dims=spatial_dims,
        use_bias=use_bias,
        dtype=dtype,
        rngs=rngs,
        **torch_default(inputs),
    )


def upsample(
    inputs: int,
    outputs: int,
    *,
    spatial_dims: int,
    use_bias: bool,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> Upsample:
    """A transposed convolution of kernel 2 and stride 2."""
    inits: dict[str, Any] = torch_default(outputs * 2**spatial_dims)
    if not use_bias:
        inits["bias_init"] = None
    return Upsample(
        inputs, outputs, patch=2, spatial_dims=spatial_dims, dtype=dtype, rngs=rngs, **inits
    )


def transposed(
    inputs: int,
    outputs: int,
    *,
    strides: tuple[int, ...],
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.ConvTranspose:
    """A transposed convolution of kernel 3 that multiplies sizes by the stride.

    torch's padding 1 and output_padding stride - 1: 1 zero in front of the dilated image and
    ``stride`` behind it.
    """
    return nnx.ConvTranspose(
        inputs,
        outputs,
        (3,) * len(strides),
        strides,
        padding=[(1, s) for s in strides],
        dtype=dtype,
        rngs=rngs,
        **torch_default(outputs * 3 ** len(strides)),
    )


class ResidualConv(nnx.Module):
    """y = f(N(conv3(f(N(conv3(x))))) + shortcut), f = LeakyReLU 0.01, N = instance norm, no affine.

    The shortcut is x, or N(conv1(x)) if the number of channels changes; no convolution has a bias.

    Args:
        inputs, outputs: channels.
        spatial_dims: 2 or 3.
        dtype, rngs: as for ``nnx.Conv``.

    Example:
        >>> import jax.numpy as jnp
        >>> block = ResidualConv(3, 8, spatial_dims=2, dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> block(jnp.ones((1, 4, 4, 3))).shape
        (1, 4, 4, 8)
    """

    def __init__(
        self, inputs: int, outputs: int, *, spatial_dims: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        options: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "use_bias": False,
            "dtype": dtype,
            "rngs": rngs,
        }
        self.conv1 = conv(inputs, outputs, 3, **options)
        self.conv2 = conv(outputs, outputs, 3, **options)
        self.conv3 = nnx.data(None if inputs == outputs else pointwise(inputs, outputs, **options))
        self.norm = InstanceNorm(outputs, affine=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space d"]:
        f = leaky_relu(0.01)
        shortcut = x if self.conv3 is None else self.norm(self.conv3(x))
        y = self.norm(self.conv2(self.norm(self.conv1(x), f)))
        y = y + shortcut
        return f.function(y.astype(jnp.float32)).astype(y.dtype)
