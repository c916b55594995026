"""Transposed convolutions in a form that XLA:CPU is fast at: a convolution per phase of the stride.

XLA:CPU multiplies with the zeros between the grid's points (``benchmarks/README.md``). The image
points i with the same i mod stride see the grid through the same taps, and without zeros.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array, DTypeLike, Shaped
from fp4jax.ops.convolution.geometry import Sizes, Window

#: ``(image, kernel, strides, padding, dilation)`` to the convolution, channels last.
Convolve = Callable[[Array, Array, Sizes, tuple[tuple[int, int], ...], Sizes], Array]


def scatter_by_phase(
    grid: Shaped[Array, "n *grid o"],
    transposed: Shaped[Array, "*taps i c"],
    window: Window,
    convolve: Convolve,
    dtype: DTypeLike,
) -> Shaped[Array, "n *image c"]:
    """The transposed convolution of the grid by the kernel with its channels swapped."""

    def phase(at: Sizes) -> Array:
        return _phase(grid, transposed, at, window, convolve, dtype)

    image = _interleave(phase, window.stride)
    # Every phase has the size of the first, the largest: cut what is too much.
    return lax.slice(image, (0,) * image.ndim, (image.shape[0], *window.image, image.shape[-1]))


def _interleave(phases: Callable[[Sizes], Array], stride: Sizes, prefix: Sizes = ()) -> Array:
    """Image whose points i with i mod stride = phase are ``phases(phase)``."""
    axis = len(prefix)
    if axis == len(stride):
        return phases(prefix)
    parts = [_interleave(phases, stride, (*prefix, r)) for r in range(stride[axis])]
    if len(parts) == 1:
        return parts[0]
    stacked = jnp.stack(parts, axis + 2)
    shape = list(parts[0].shape)
    shape[axis + 1] *= len(parts)
    return stacked.reshape(shape)


def _phase(
    grid: Array,
    transposed: Array,
    phase: Sizes,
    window: Window,
    convolve: Convolve,
    dtype: DTypeLike,
) -> Array:
    """Image points p * stride + phase: a convolution of the grid with every stride-th tap.

    Tap t reaches them from grid point p + (phase + low - t * dilation) / stride, which must be an
    integer; among the taps for which it is, it falls by a constant, so their order is reversed.
    """
    points = tuple(-(-i // s) for i, s in zip(window.image, window.stride, strict=True))
    starts, steps, dilations, padding = [], [], [], []
    for a in range(window.ndim):
        s, d = window.stride[a], window.dilation[a]
        step = s // math.gcd(s, d)
        offset = phase[a] + window.low[a]
        start = next(
            (t for t in range(min(step, window.taps[a])) if (offset - t * d) % s == 0), None
        )
        if start is None:
            # No tap reaches it: the stride is larger than the kernel.
            return jnp.zeros((grid.shape[0], *points, transposed.shape[-1]), dtype)
        count = len(range(start, window.taps[a], step))
        dilation = d // math.gcd(s, d)
        first = (offset - (start + (count - 1) * step) * d) // s
        reach = (count - 1) * dilation
        starts.append(start)
        steps.append(step)
        dilations.append(dilation)
        padding.append((-first, points[a] + first + reach - window.grid[a]))
    limits = (*window.taps, *transposed.shape[window.ndim :])
    taps = lax.slice(transposed, (*starts, 0, 0), limits, (*steps, 1, 1))
    taps = lax.rev(taps, tuple(range(window.ndim)))
    return convolve(grid, taps, (1,) * window.ndim, tuple(padding), tuple(dilations))
