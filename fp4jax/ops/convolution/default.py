"""The three products of a window as one convolution each: what accelerators are fast at."""

import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution.geometry import Window, channels_last


def gather(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps i o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "n *grid o"]:
    """The convolution of the image."""
    return lax.conv_general_dilated(
        image,
        kernel,
        window.stride,
        tuple(zip(window.low, window.high, strict=True)),
        rhs_dilation=window.dilation,
        dimension_numbers=channels_last(window.ndim),
        feature_group_count=window.groups,
        precision=precision,
        preferred_element_type=dtype,
    )


def scatter(
    grid: Shaped[Array, "n *grid o"],
    kernel: Shaped[Array, "*taps i o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "n *image c"]:
    """A convolution of the grid with zeros between its points."""
    ends = zip(window.image, window.low, window.span, window.reach, strict=True)
    return lax.conv_general_dilated(
        grid,
        lax.rev(swap_channels(kernel, window.groups), tuple(range(window.ndim))),
        (1,) * window.ndim,
        [(reach - low, image + low - span) for image, low, span, reach in ends],
        lhs_dilation=window.stride,
        rhs_dilation=window.dilation,
        dimension_numbers=channels_last(window.ndim),
        feature_group_count=window.groups,
        precision=precision,
        preferred_element_type=dtype,
    )


def kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "*taps i o"]:
    """A convolution of the image with the grid for a kernel, stride and dilation exchanged.

    Images are its channels and channels its images.
    """
    ndim = window.ndim
    if grid.size == 0:
        # A kernel of no points, which convolutions do not take.
        return jnp.zeros((*window.taps, image.shape[-1] // window.groups, grid.shape[-1]), dtype)
    space = tuple(range(1, ndim + 1))
    return lax.conv_general_dilated(
        image.astype(dtype),
        grid.astype(dtype),
        window.dilation,
        tuple(zip(window.low, window.high, strict=True)),
        rhs_dilation=window.stride,
        dimension_numbers=lax.ConvDimensionNumbers(
            (ndim + 1, 0, *space), (ndim + 1, 0, *space), (ndim, ndim + 1, *range(ndim))
        ),
        batch_group_count=window.groups,
        precision=precision,
        preferred_element_type=dtype,
    )


def swap_channels(kernel: Array, groups: int) -> Array:
    """(*taps, c / groups, o) -> (*taps, o / groups, c): the kernel of the adjoint, not flipped."""
    *taps, i, o = kernel.shape
    grouped = kernel.reshape(*taps, i, groups, o // groups)
    return jnp.moveaxis(grouped, (-3, -2, -1), (-1, -2, -3)).reshape(*taps, o // groups, groups * i)
