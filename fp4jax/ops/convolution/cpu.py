"""The three products of a window in the forms that XLA:CPU is fast at, and where each pays.

XLA:CPU has good convolutions of planes, and poor ones of volumes, of few channels, of zeros (the
transposed ones) and of few taps over many positions (the kernel gradients). So

* a convolution of volumes runs plane by plane (``cpu_planes.py``);
* a transposed convolution runs as one convolution per phase of the stride (``cpu_phases.py``);
* with few image channels it and the kernel gradient are one matrix product with the columns of the
  image;
* the kernel gradient of a dense window is a sum over blocks of positions (``cpu_blocks.py``), that
  of a wide grid, or of taps that see whole rows, one matrix product per tap.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution import default
from fp4jax.ops.convolution.cpu_blocks import kernel_gradient_by_blocks
from fp4jax.ops.convolution.cpu_phases import scatter_by_phase
from fp4jax.ops.convolution.cpu_planes import at_least_float32, convolve_planes
from fp4jax.ops.convolution.geometry import Sizes, Window, channels_last
from fp4jax.ops.convolution.taps import columns, map_taps, overlap_add
from fp4jax.ops.over_positions import over_positions


@dataclasses.dataclass(frozen=True)
class Crossovers:
    """Sizes at which one form becomes faster than another, measured on two cores.

    ``python -m benchmarks.bench_convolution`` measures them again: both forms, around each.
    """

    # Grid channels between which an odd number of image channels is padded by one of zeros: 3 to 24
    # channels of 128 x 128 pixels, 3.1 ms without and 0.3 ms with it.
    odd_channels: tuple[int, int] = (16, 64)
    # Grid positions up to which a transposed convolution is a product and an overlap-add: it costs
    # more to turn the kernel around for its phases.
    few_positions: int = 64
    # Grid channels, of stride 1 and of larger strides, and positions, from which a kernel gradient
    # is faster as one product per tap than as a convolution: 1.2 to 2.8 times.
    wide_grid_dense: int = 64
    wide_grid: int = 128
    many_positions: int = 4096
    # Positions from which the kernel gradient of a dense window is one by blocks: 8 images of
    # 128 x 128 pixels and 24 channels, 89 ms as a convolution and 17 ms by blocks.
    block_fewest: int = 256
    # Positions of a block, which shall fit in the cache with what its taps see.
    block: int = 4096
    # Products q k^T of a block of attention windows: a few megabytes of float32; four times as
    # many are still faster at once.
    attention: int = 400_000


CROSSOVERS = Crossovers()


def gather(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps i o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "n *grid o"]:
    """The convolution of the image."""
    padding = tuple(zip(window.low, window.high, strict=True))
    convolve = _convolution(window, precision, dtype)
    return convolve(image, kernel, window.stride, padding, window.dilation)


def scatter(
    grid: Shaped[Array, "n *grid o"],
    kernel: Shaped[Array, "*taps i o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "n *image c"]:
    """The transposed convolution of the grid."""
    if has_few_channels(window, kernel.shape) or has_few_positions(window, grid.shape):
        channel = (((grid.ndim - 1,), (kernel.ndim - 1,)), ((), ()))
        # Taps that overlap are added in float32 and rounded once.
        parts = lax.dot_general(grid, kernel, channel, precision, at_least_float32(dtype))
        return overlap_add(parts, window).astype(dtype)
    transposed = default.swap_channels(kernel, window.groups)
    convolve = _convolution(window, precision, dtype)
    return scatter_by_phase(grid, transposed, window, convolve, dtype)


def kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    window: Window,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "*taps i o"]:
    """The gradient of ``sum(gather(image, kernel) * grid)`` with respect to the kernel."""
    image, grid = image.astype(dtype), grid.astype(dtype)
    shape = (*window.taps, image.shape[-1] // window.groups, grid.shape[-1])
    positions = math.prod(grid.shape[:-1])

    def of_view(view: Array) -> Array:
        # Without the barrier XLA:CPU writes the view transposed, at the cost of the product.
        rows = lax.optimization_barrier(view).reshape(positions, view.shape[-1])
        return over_positions(rows, grid.reshape(positions, shape[-1]), precision, dtype)

    if has_few_channels(window, shape):
        return of_view(columns(image, window)).reshape(shape)
    if pays_by_blocks(window):
        rows = rows_of_block(window.grid)
        return kernel_gradient_by_blocks(
            image, grid, window.taps, window.low, rows, precision, dtype
        )
    if has_wide_grid(window, shape, positions) or sees_rows(window):
        return map_taps(lambda view, t: of_view(view), image, window).reshape(shape)
    # At zeros that vary over the axes of a shard_map as the operands do: the gradient of ones that
    # do not would be summed over the shards.
    zeros, _ = sharding.varying_together(jnp.zeros(shape, dtype), image, grid)
    _, pull = jax.vjp(lambda kernel: gather(image, kernel, window, precision, dtype), zeros)
    return pull(grid)[0]


def has_few_channels(window: Window, kernel_shape: Sizes) -> bool:
    """True if the columns of the image, all taps of a position, are no larger than the grid."""
    *_, i, o = kernel_shape
    return window.groups == 1 and window.number_of_taps * i <= o


def has_few_positions(window: Window, grid_shape: Sizes) -> bool:
    """True if it costs more to turn the kernel around than to add up the columns of the image."""
    positions = math.prod(grid_shape[:-1])
    # Of a batch of any size, as jax.export takes it, they are not known, and counted as many.
    known = isinstance(positions, int)
    return window.groups == 1 and known and positions <= CROSSOVERS.few_positions


def has_wide_grid(window: Window, kernel_shape: Sizes, positions: int) -> bool:
    """True if one product per tap beats XLA:CPU's convolution."""
    dense = max(window.stride, default=1) == 1
    wide = CROSSOVERS.wide_grid_dense if dense else CROSSOVERS.wide_grid
    many = not isinstance(positions, int) or positions >= CROSSOVERS.many_positions
    return window.groups == 1 and kernel_shape[-1] >= wide and many


def sees_rows(window: Window) -> bool:
    """True if taps and strides lie along the first axes alone, as of the views of a wgrad.

    A tap then sees whole rows. XLA:CPU's convolution takes up to 200 ms of 8 images of 64 x 64
    pixels and 32 channels in a loop, the products 2 ms.
    """
    rows = window.ndim > 1 and window.taps[-1] == 1 == window.stride[-1]
    return rows and window.groups == 1


def pays_by_blocks(window: Window) -> bool:
    """True for two axes or more without stride and dilation, unless positions are few."""
    dense = window.groups == 1 and set(window.stride + window.dilation) == {1}
    positions = min(math.prod(window.image), math.prod(window.grid))
    return dense and window.ndim > 1 and positions >= CROSSOVERS.block_fewest


def rows_of_block(size: Sizes) -> int:
    """How many rows (or planes) of ``size`` a block has: a divisor of their number."""
    row = math.prod(size[1:])
    most = min(size[0], max(1, CROSSOVERS.block // row))
    rows = max(r for r in range(1, most + 1) if size[0] % r == 0)
    # Sizes without divisors: all at once.
    return rows if rows * row >= CROSSOVERS.block_fewest else size[0]


def _convolution(window: Window, precision, dtype: DTypeLike):
    """``_convolve`` but for the arrays and the geometry."""
    return functools.partial(_convolve, groups=window.groups, precision=precision, dtype=dtype)


def _convolve(
    image, kernel, strides, padding, dilation, *, groups: int, precision, dtype: DTypeLike
) -> Array:
    """``lax.conv_general_dilated``, channels last; of volumes plane by plane."""
    ndim = len(strides)
    c, o = image.shape[-1], kernel.shape[-1]
    above, below = CROSSOVERS.odd_channels
    if groups == 1 and c % 2 and c > 1 and above < o < below:
        channel = [(0, 0, 0)] * (ndim + 1) + [(0, 1, 0)]
        image = lax.pad(image, jnp.zeros((), image.dtype), channel)
        kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*channel[1:], (0, 0, 0)])
    if ndim == 3 and groups == 1:
        return convolve_planes(image, kernel, strides, padding, dilation, precision, dtype)
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(ndim),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=dtype,
    )
