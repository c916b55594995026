"""What each tap of a window covers of the image: views, side by side or one after the other."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.platform import by_platform
from fp4jax.core.typing import Array, Shaped
from fp4jax.ops.convolution.geometry import Window


def columns(
    image: Shaped[Array, "n *image c"], window: Window
) -> Shaped[Array, "n *grid taps_and_c"]:
    """im2col: the views of all taps side by side, in the order (tap, channel)."""
    return jnp.concatenate(_views(image, window), -1)


def overlap_add(
    columns: Shaped[Array, "n *grid_and_taps c"], window: Window
) -> Shaped[Array, "n *image c"]:
    """The adjoint of :func:`columns`, of (n, *grid, *taps, c): axis by axis."""
    first_tap_axis = window.ndim + 1
    for a in range(window.ndim):
        padded = []
        for t in range(window.taps[a]):
            low = t * window.dilation[a] - window.low[a]
            tap = lax.index_in_dim(columns, t, first_tap_axis, keepdims=False)
            config = [(0, 0, 0)] * tap.ndim
            config[a + 1] = (low, window.image[a] - low - window.span[a], window.stride[a] - 1)
            padded.append(lax.pad(tap, jnp.zeros((), tap.dtype), config))
        columns = sum(padded[1:], padded[0])
    return columns


def map_taps(
    function: Callable[..., Array],
    image: Shaped[Array, "n *image c"],
    window: Window,
    *shared: Any,
) -> Shaped[Array, "taps ..."]:
    """``function(view, t, *shared)`` for each tap t, stacked; view (n, *grid, c) is what t covers.

    On CPU one tap after the other, in a loop: a view fits in the cache, all of them together are
    ``number_of_taps / prod(stride)`` times the image. On accelerators all taps at once.
    """
    if window.number_of_taps == 1:
        (view,) = _views(image, window)
        return function(view, jnp.zeros((), jnp.int32), *shared)[None]
    # Traced once for both platforms.
    function = jax.jit(function, inline=True)
    taps = np.arange(window.number_of_taps, dtype=np.int32)

    def one_by_one(image: Array, *shared: Any) -> Array:
        padded = _pad(image, window)
        return lax.map(lambda t: function(_view(padded, window, t), t, *shared), taps)

    def together(image: Array, *shared: Any) -> Array:
        of_tap = lambda view, t: function(view, t, *shared)  # noqa: E731
        return jax.vmap(of_tap)(jnp.stack(_views(image, window)), taps)

    return by_platform(image, *shared, cpu=one_by_one, default=together)


def _views(image: Array, window: Window) -> list[Array]:
    """What each tap covers, (n, *grid, c)."""
    padded = _pad(image, window)
    views = []
    for tap in itertools.product(*map(range, window.taps)):
        start = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        stop = [first + span for first, span in zip(start, window.span, strict=True)]
        ends = (padded.shape[0], *stop, padded.shape[-1])
        views.append(lax.slice(padded, (0, *start, 0), ends, (1, *window.stride, 1)))
    return views


def _view(padded: Array, window: Window, t: Array) -> Array:
    """What tap t covers of the padded image, t an array."""
    starts = []
    for taps, dilation in zip(reversed(window.taps), reversed(window.dilation), strict=True):
        starts.insert(0, (t % taps) * dilation)
        t = t // taps
    zero = jnp.zeros_like(t)
    size = (padded.shape[0], *window.span, padded.shape[-1])
    covered = lax.dynamic_slice(padded, (zero, *starts, zero), size)
    return lax.slice(covered, (0,) * covered.ndim, size, (1, *window.stride, 1))


def _pad(image: Array, window: Window) -> Array:
    space = ((lo, hi, 0) for lo, hi in zip(window.low, window.high, strict=True))
    return lax.pad(image, jnp.zeros((), image.dtype), ((0, 0, 0), *space, (0, 0, 0)))
