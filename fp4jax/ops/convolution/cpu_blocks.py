"""Kernel gradients of dense windows, stride and dilation 1, as matrix products of blocks.

XLA:CPU's own are slow where channels are few: 89 ms for 8 images of 128 x 128 pixels and 24
channels, 17 ms here. A block's positions fit in the cache together with what its taps see.
"""

import itertools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution.cpu_planes import at_least_float32
from fp4jax.ops.convolution.geometry import Sizes
from fp4jax.ops.over_positions import over_positions


def kernel_gradient_by_blocks(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    taps: Sizes,
    low: Sizes,
    rows: int,
    precision,
    dtype: DTypeLike,
) -> Shaped[Array, "*taps c o"]:
    """K[t] = sum_q image[q + t - low]^T grid[q], for windows of at least two axes.

    Image and grid are padded to rows of the same length, so that a tap is a distance in memory; the
    zeros behind the grid's rows cancel what it sees beyond their ends. The taps of the last axis
    that has several are distances in the grid, those of the others in the image:

        K[t] = sum_p image[p + others - low]^T grid[p - last],    p = q + last

    So a block has a product per tap of the others, (c, positions) (positions, last * o). Its image
    is a piece of memory as it lies; only the grid is put together first, once for all products.
    With several taps along the first axis alone, which a grid's distances would lead out of, the
    image is put together instead, for one product, (taps * c, positions) (positions, o).
    ``rows`` rows (or planes) of the grid are a block; they must divide their number.
    """
    wide = at_least_float32(dtype)
    n, *size, o = grid.shape
    c = image.shape[-1]
    padded = [q + t - 1 for q, t in zip(size, taps, strict=True)]
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(taps))]
    several = [axis for axis, t in enumerate(taps) if t > 1]
    turned = several[-1] if several and several[-1] > 0 else None
    last, unit = (1, 0) if turned is None else (taps[turned], strides[turned])
    others = [(t, strides[axis]) for axis, t in enumerate(taps) if axis != turned]
    zero = jnp.zeros((), image.dtype)
    around = ((lo, p - lo - i, 0) for lo, p, i in zip(low, padded, image.shape[1:-1], strict=True))
    x = lax.pad(image, zero, ((0, 0, 0), *around, (0, 0, 0))).reshape(n, -1, c)
    # The last block's last taps look beyond the last row.
    beyond = sum((t - 1) * s for t, s in others if s < strides[0])
    x = lax.pad(x, zero, ((0, 0, 0), (0, beyond, 0), (0, 0, 0)))
    behind = ((0, t - 1, 0) for t in taps[1:])
    g = lax.pad(grid, zero, ((0, 0, 0), (0, 0, 0), *behind, (0, 0, 0))).reshape(n, -1, o)
    g = lax.pad(g, zero, ((0, 0, 0), ((last - 1) * unit, 0, 0), (0, 0, 0)))
    distances = [
        sum(t * s for t, (_, s) in zip(tap, others, strict=True))
        for tap in itertools.product(*(range(t) for t, _ in others))
    ]

    def product(index: Array, first: Array, rows: int) -> Array:
        start, points = first * strides[0], rows * strides[0]

        def piece(a: Array, distance: int) -> Array:
            place = (index, start + distance, jnp.zeros_like(index))
            return lax.dynamic_slice(a, place, (1, points, a.shape[-1]))[0]

        # In memory: XLA:CPU would gather what is put together in each product.
        if turned is None:
            seen = lax.optimization_barrier(jnp.concatenate([piece(x, d) for d in distances], -1))
            dot = over_positions(seen, piece(g, 0), precision, wide)
            return dot.reshape(shape)
        shifted = jnp.concatenate([piece(g, (last - 1 - t) * unit) for t in range(last)], -1)
        shifted = lax.optimization_barrier(shifted)
        products = [
            over_positions(piece(x, distance), shifted, precision, wide) for distance in distances
        ]
        return jnp.stack(products)

    shape = (len(distances), c, last * o)
    total = _sum_of_blocks(product, image, grid, rows, shape, wide)
    other_taps = [t for t, _ in others]
    kernel = total.reshape(*other_taps, c, last, o)
    if turned is None:
        return kernel.reshape(*taps, c, o).astype(dtype)
    return jnp.moveaxis(kernel, -2, turned).astype(dtype)


def _sum_of_blocks(
    product: Callable[[Array, Array, int], Array],
    image: Array,
    grid: Array,
    rows: int,
    shape: Sizes,
    dtype: DTypeLike,
) -> Array:
    """The sum of ``product(index of the image, first row, rows)`` over all blocks of rows."""
    per_image = grid.shape[1] // rows
    blocks = image.shape[0] * per_image
    if blocks == 1:
        return product(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), rows)

    def add(total: Array, block: Array) -> tuple[Array, None]:
        return total + product(block // per_image, block % per_image * rows, rows), None

    start, _ = sharding.varying_together(jnp.zeros(shape, dtype), image, grid)
    # Two at a time, which two cores compute side by side.
    total, _ = lax.scan(add, start, jnp.arange(blocks), unroll=2)
    return total
