"""Convolutions of volumes in a form that XLA:CPU is fast at, one of planes.

XLA:CPU has a good convolution of planes and a poor one of volumes (9 GFLOP/s on 64 x 64 x 64 pixels
of 24 channels, two cores). So a volume is convolved plane by plane, with its depth taps among the
channels.
"""

import jax.numpy as jnp
from jax import lax

from fp4jax.core import exact
from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution.geometry import Sizes


def convolve_planes(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps c o"],
    strides: Sizes,
    padding: tuple[tuple[int, int], ...],
    dilation: Sizes,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "n *grid o"]:
    """A convolution as one of planes (n * depth, *rest, c), without groups and input dilation.

    The depth taps are input channels, of planes side by side, or output channels, to be added up:
    whichever are fewer. The result is ``lax.conv_general_dilated``'s, up to the order of sums.
    """
    depth, c = image.shape[1], image.shape[-1]
    taps, o = kernel.shape[0], kernel.shape[-1]
    (low, high), *padding_rest = padding
    span = (taps - 1) * dilation[0] + 1
    planes = max(0, (depth + low + high - span) // strides[0] + 1)

    def convolve(x: Array, k: Array, to) -> Array:
        """(n, d, *rest, i) and (*taps, i, o) -> (n, d, *grid, o)."""
        axes = (0, x.ndim - 2, *range(1, x.ndim - 2))
        taps = (k.ndim - 1, k.ndim - 2, *range(k.ndim - 2))
        y = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            k,
            strides[1:],
            padding_rest,
            rhs_dilation=dilation[1:],
            dimension_numbers=lax.ConvDimensionNumbers(axes, taps, axes),
            precision=precision,
            preferred_element_type=to,
        )
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def shifted(x: Array, t: int) -> Array:
        """The planes that depth tap t sees."""
        first = t * dilation[0]
        last = first + (planes - 1) * strides[0] + 1
        return lax.slice_in_dim(x, first, max(first, last), strides[0], axis=1)

    def padded(x: Array) -> Array:
        config = ((0, 0, 0), (low, high, 0), *((0, 0, 0),) * (x.ndim - 2))
        return lax.pad(x, jnp.zeros((), x.dtype), config)

    rest = kernel.ndim - 3
    if strides[0] == 1 and c >= o and depth:
        together = kernel.transpose(*range(1, rest + 2), 0, rest + 2)
        wide = together.reshape(*kernel.shape[1:-1], taps * o)
        y = convolve(image, wide, at_least_float32(dtype))
        y = padded(y.reshape(*y.shape[:-1], taps, o))
        parts = [
            lax.index_in_dim(shifted(y, t), t, y.ndim - 2, keepdims=False) for t in range(taps)
        ]
        # In memory, or XLA keeps what is added up, twice, until the gradient's last reader.
        return exact.materialize(sum(parts[1:], parts[0])).astype(dtype)
    together = kernel.transpose(*range(1, rest + 1), 0, rest + 1, rest + 2)
    x = padded(image)
    x = jnp.concatenate([shifted(x, t) for t in range(taps)], -1)
    return convolve(x, together.reshape(*kernel.shape[1 : rest + 1], taps * c, o), dtype)


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """What sums are taken in."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype
