"""The products of dense windows and of volumes in forms that XLA:CPU is fast at.

XLA:CPU has a good convolution of planes and a poor one of volumes (9 GFLOP/s on 64 x 64 x 64 pixels
of 24 channels, two cores). So a volume is convolved plane by plane, with its depth taps among the
channels. Kernel gradients of few channels are poor in both; in a dense window they are products of
blocks of positions, small enough for the cache, each of which serves all taps.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax import sharding
from fp4jax.typing import Array, DTypeLike, Shaped

Sizes = tuple[int, ...]

# Of one product of a kernel gradient: positions that fit in the cache together with their taps.
_BLOCK = 4096
# Below, blocks cost more than XLA's convolution does.
_FEWEST = 256


def convolve_planes(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps c o"],
    strides: Sizes,
    padding: tuple[tuple[int, int], ...],
    dilation: Sizes,
    precision=None,
    preferred_element_type=None,
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
    dtype = jnp.dtype(preferred_element_type or image.dtype)

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
        return sum(parts[1:], parts[0]).astype(dtype)
    together = kernel.transpose(*range(1, rest + 1), 0, rest + 1, rest + 2)
    x = padded(image)
    x = jnp.concatenate([shifted(x, t) for t in range(taps)], -1)
    return convolve(x, together.reshape(*kernel.shape[1 : rest + 1], taps * c, o), dtype)


def rows_of_block(image: Sizes, grid: Sizes) -> int | None:
    """How many rows or planes of the image a block has; None if blocks do not pay."""
    if len(image) < 2 or min(math.prod(image), math.prod(grid)) < _FEWEST:
        return None
    row = math.prod(image[1:])
    most = min(image[0], max(1, _BLOCK // row))
    rows = max(r for r in range(1, most + 1) if image[0] % r == 0)
    # Sizes without divisors: all at once.
    return rows if rows * row >= _FEWEST else image[0]


def dense_kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    taps: Sizes,
    low: Sizes,
    rows: int,
    precision=None,
    preferred_element_type=None,
) -> Shaped[Array, "*taps c o"]:
    """K[t] = sum_q image[q + t - low]^T grid[q], for stride and dilation 1, in blocks of rows.

    A block's product is (positions, taps along the last axis * c)^T (positions, other taps * o).
    """
    d = len(taps)
    n, *size, c = image.shape
    o = grid.shape[-1]
    *outer, last = taps
    # The image along the last axis as its taps see it; the grid along the others, so that image
    # point i meets grid point i + low - t.
    ends = (low[-1], grid.shape[-2] + last - 1 - size[-1] - low[-1], 0)
    zero = jnp.zeros((), image.dtype)
    x = lax.pad(image, zero, ((0, 0, 0),) * d + (ends, (0, 0, 0)))
    around = (
        (t - 1 - lo, i + lo - q, 0)
        for t, lo, i, q in zip(outer, low, size, grid.shape[1:], strict=False)
    )
    g = lax.pad(grid, zero, ((0, 0, 0), *around, (0, 0, 0), (0, 0, 0)))
    per_image, width = size[0] // rows, grid.shape[-2]

    def columns(block: Array) -> Array:
        views = [lax.slice_in_dim(block, t, t + width, axis=d) for t in range(last)]
        return _matrix(jnp.concatenate(views, -1))

    def shifts(block: Array) -> Array:
        views = [block]
        for axis, t in enumerate(outer, start=1):
            length = block.shape[axis] - t + 1
            views = [
                lax.slice_in_dim(v, t - 1 - k, t - 1 - k + length, axis=axis)
                for v in views
                for k in range(t)
            ]
        return _matrix(jnp.concatenate(views, -1))

    wide = at_least_float32(preferred_element_type or image.dtype)

    def block(index: Array) -> Array:
        place = (index // per_image, index % per_image * rows, *(jnp.zeros_like(index),) * d)
        xs = lax.dynamic_slice(x, place, (1, rows, *x.shape[2:]))
        gs = lax.dynamic_slice(g, place, (1, rows + outer[0] - 1, *g.shape[2:]))
        dims = (((0,), (0,)), ((), ()))
        return lax.dot_general(columns(xs), shifts(gs), dims, precision, wide)

    blocks = n * per_image
    if blocks == 1:
        total = block(jnp.zeros((), jnp.int32))
    else:
        start = jnp.zeros((last * c, math.prod(outer) * o), wide)
        start, _ = sharding.varying_together(start, image, grid)
        total, _ = lax.scan(lambda s, i: (s + block(i), None), start, jnp.arange(blocks))
    kernel = total.reshape(last, c, *outer, o)
    order = (*range(2, d + 1), 0, 1, d + 1)
    return kernel.transpose(order).astype(preferred_element_type or image.dtype)


def at_least_float32(dtype: DTypeLike) -> DTypeLike:
    """What sums are taken in."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def _matrix(x: Array) -> Array:
    """(1, *positions, c) -> (positions, c), in memory: XLA:CPU would gather it in the product."""
    return jax.lax.optimization_barrier(x).reshape(-1, x.shape[-1])
