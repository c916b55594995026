"""Kernel gradients of dense windows, stride and dilation 1, as matrix products of blocks.

XLA:CPU's own are slow where channels are few: 89 ms for 8 images of 128 x 128 pixels and 24
channels, 25 ms here. A block's positions fit in the cache together with what its taps see. There
are two forms: one product of a block for all taps, whose operands are put together first, for few
channels or many taps; and one product for each tap, whose operands lie in memory as they are.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax import sharding
from fp4jax.typing import Array, DTypeLike, Shaped
from fp4jax.window_cpu import at_least_float32

Sizes = tuple[int, ...]

# Positions of a block, and how many must be there for blocks to pay.
_BLOCK, _FEWEST = 4096, 256
# A product per tap pays up to so many taps, from so many channels on.
_FEW_TAPS, _MANY_CHANNELS = 9, 24


def pays(image: Sizes, grid: Sizes) -> bool:
    """False where XLA's convolution is faster: one axis, or few positions."""
    return len(image) > 1 and min(math.prod(image), math.prod(grid)) >= _FEWEST


def kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    taps: Sizes,
    low: Sizes,
    precision=None,
    preferred_element_type=None,
) -> Shaped[Array, "*taps c o"]:
    """K[t] = sum_q image[q + t - low]^T grid[q], for windows of at least two axes."""
    dtype = preferred_element_type or image.dtype
    few = min(image.shape[-1], grid.shape[-1]) < _MANY_CHANNELS or math.prod(taps) > _FEW_TAPS
    form = _all_taps if few else _tap_by_tap
    return form(image, grid, taps, low, precision, at_least_float32(dtype)).astype(dtype)


def _all_taps(
    image: Array, grid: Array, taps: Sizes, low: Sizes, precision, dtype: DTypeLike
) -> Array:
    """A block's product is (positions, taps along the last axis * c)^T (positions, others * o)."""
    d = len(taps)
    _, *size, c = image.shape
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
    width = grid.shape[-2]

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

    def product(index: Array, first: Array, rows: int) -> Array:
        place = (index, first, *(jnp.zeros_like(index),) * d)
        xs = lax.dynamic_slice(x, place, (1, rows, *x.shape[2:]))
        gs = lax.dynamic_slice(g, place, (1, rows + outer[0] - 1, *g.shape[2:]))
        return _over_positions(columns(xs), shifts(gs), precision, dtype)

    shape = (last * c, math.prod(outer) * o)
    total = _sum_of_blocks(product, image, grid, tuple(size), shape, dtype)
    order = (*range(2, d + 1), 0, 1, d + 1)
    return total.reshape(last, c, *outer, o).transpose(order)


def _tap_by_tap(
    image: Array, grid: Array, taps: Sizes, low: Sizes, precision, dtype: DTypeLike
) -> Array:
    """Image and grid are padded to rows of the same length: a tap then is a distance in memory.

    It meets every position of a block at that distance, and the zeros behind the grid's rows cancel
    what it sees beyond the ends.
    """
    n, *size, o = grid.shape
    c = image.shape[-1]
    padded = [q + t - 1 for q, t in zip(size, taps, strict=True)]
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(taps))]
    zero = jnp.zeros((), image.dtype)
    around = ((lo, p - lo - i, 0) for lo, p, i in zip(low, padded, image.shape[1:-1], strict=True))
    x = lax.pad(image, zero, ((0, 0, 0), *around, (0, 0, 0))).reshape(n, -1, c)
    # The last block's last taps look beyond the last row.
    beyond = sum((t - 1) * s for t, s in zip(taps[1:], strides[1:], strict=True))
    x = lax.pad(x, zero, ((0, 0, 0), (0, beyond, 0), (0, 0, 0)))
    behind = ((0, t - 1, 0) for t in taps[1:])
    g = lax.pad(grid, zero, ((0, 0, 0), (0, 0, 0), *behind, (0, 0, 0))).reshape(n, -1, o)
    distances = [
        sum(k * s for k, s in zip(tap, strides, strict=True))
        for tap in itertools.product(*map(range, taps))
    ]

    def product(index: Array, first: Array, rows: int) -> Array:
        start, points = first * strides[0], rows * strides[0]
        origin = jnp.zeros_like(index)
        positions = lax.dynamic_slice(g, (index, start, origin), (1, points, o))[0]
        seen = [
            lax.dynamic_slice(x, (index, start + k, origin), (1, points, c))[0] for k in distances
        ]
        return jnp.stack([_over_positions(view, positions, precision, dtype) for view in seen])

    shape = (len(distances), c, o)
    return _sum_of_blocks(product, image, grid, tuple(size), shape, dtype).reshape(*taps, c, o)


def _sum_of_blocks(
    product: Callable[[Array, Array, int], Array],
    image: Array,
    grid: Array,
    size: Sizes,
    shape: Sizes,
    dtype: DTypeLike,
) -> Array:
    """The sum of ``product(index of the image, first row, rows)`` over all blocks of rows."""
    rows = _rows_of_block(size)
    per_image = size[0] // rows
    blocks = image.shape[0] * per_image
    if blocks == 1:
        return product(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), rows)

    def add(total: Array, block: Array) -> tuple[Array, None]:
        return total + product(block // per_image, block % per_image * rows, rows), None

    start, _ = sharding.varying_together(jnp.zeros(shape, dtype), image, grid)
    # Two at a time, which two cores compute side by side.
    total, _ = lax.scan(add, start, jnp.arange(blocks), unroll=2)
    return total


def _rows_of_block(size: Sizes) -> int:
    """How many rows (or planes) of ``size`` a block has: a divisor of their number."""
    row = math.prod(size[1:])
    most = min(size[0], max(1, _BLOCK // row))
    rows = max(r for r in range(1, most + 1) if size[0] % r == 0)
    # Sizes without divisors: all at once.
    return rows if rows * row >= _FEWEST else size[0]


def _over_positions(a: Array, b: Array, precision, dtype: DTypeLike) -> Array:
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision, dtype)


def _matrix(x: Array) -> Array:
    """(1, *positions, c) -> (positions, c), in memory: XLA:CPU would gather it in the product."""
    return jax.lax.optimization_barrier(x).reshape(-1, x.shape[-1])
