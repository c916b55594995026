"""The views of an image that a window's taps see, cut into blocks along positions.

In wgrad blocks lie along the flattened positions (n, *grid). If a row of the grid is made of whole
blocks, a tap further down sees the same blocks, one row later. So an image of 3x3 taps has three
different views, and one of 3x3x3 taps three, not 27.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from fp4jax.core.typing import Array, Shaped
from fp4jax.ops.convolution.geometry import Window
from fp4jax.ops.convolution.taps import map_taps


@dataclasses.dataclass(frozen=True)
class BlockViews:
    """A window cut in two: taps along its first ``outer`` axes share views, all others do not.

    A view holds the image along the outer axes, with its padding, and what one tap covers of it
    along the others, the inner ones.

    Example:
        >>> window = Window(
        ...     image=(8, 32), grid=(8, 32), taps=(3, 3), stride=(1, 1), dilation=(1, 1), low=(1, 1)
        ... )
        >>> views = BlockViews.of(window, run=16)
        >>> views.outer, views.inner_window.taps, views.outer_window.taps
        (1, (3,), (3, 1))
        >>> BlockViews.of(window, run=64).outer, BlockViews.of(window, run=1).outer
        (0, 2)
    """

    window: Window
    outer: int

    @classmethod
    def of(cls, window: Window, run: int) -> "BlockViews":
        """With as many outer axes as runs of ``run`` positions, and the amax of all views, allow.

        What follows the outer axes must be whole runs, and no row along them may be one that no
        tap reads. Windows of several groups have none: their products are batches, tap by tap.
        """
        outer = 0
        for axis in range(window.ndim if window.groups == 1 else 0):
            if not _is_read_whole(window, axis):
                break
            if math.prod(window.grid[axis + 1 :]) % run == 0:
                outer = axis + 1
        return cls(window, outer)

    @property
    def inner_window(self) -> Window:
        """Of a view's inner axes, of as many images as there are rows along the outer ones."""
        window, axes = self.window, slice(self.outer, None)
        return Window(
            image=window.image[axes],
            grid=window.grid[axes],
            taps=window.taps[axes],
            stride=window.stride[axes],
            dilation=window.dilation[axes],
            low=window.low[axes],
            groups=window.groups,
        )

    @property
    def outer_window(self) -> Window:
        """Between a view, as the image, and the grid: all taps that share it."""
        window, outer = self.window, self.outer
        padded = tuple(s + r for s, r in zip(window.span, window.reach, strict=True))
        one = (1,) * (window.ndim - outer)
        return Window(
            image=padded[:outer] + window.grid[outer:],
            grid=window.grid,
            taps=window.taps[:outer] + one,
            stride=window.stride[:outer] + one,
            dilation=window.dilation[:outer] + one,
            low=(0,) * window.ndim,
            groups=window.groups,
        )

    def map(
        self, function: Callable[..., Array], image: Shaped[Array, "n *image c"], *shared: Any
    ) -> Shaped[Array, "views ..."]:
        """``function(view, t, *shared)`` for each tap t of the inner axes, stacked.

        A view is (n * rows, *inner grid, c). See :func:`fp4jax.ops.convolution.taps.map_taps`.
        """
        window, outer = self.window, self.outer
        space = zip(window.low[:outer], window.high[:outer], strict=True)
        inner = [(0, 0, 0)] * (window.ndim - outer + 1)
        padding = [(0, 0, 0), *((lo, hi, 0) for lo, hi in space), *inner]
        padded = lax.pad(image, jnp.zeros((), image.dtype), padding)
        rows = math.prod(padded.shape[: outer + 1])
        return map_taps(
            function, padded.reshape(rows, *padded.shape[outer + 1 :]), self.inner_window, *shared
        )

    def by_taps(self, stacked: Shaped[Array, "views ..."]) -> Shaped[Array, "..."]:
        """What :meth:`map` stacked, of results that lead with the outer taps."""
        inner = self.window.taps[self.outer :]
        w = stacked.reshape(*inner, *stacked.shape[1:])
        return jnp.moveaxis(w, range(len(inner)), range(self.outer, self.window.ndim))


def _is_read_whole(window: Window, axis: int) -> bool:
    """Whether every row along an axis, those of the padding too, is read by some tap."""
    first = np.arange(window.grid[axis])[:, None] * window.stride[axis]
    read = first + np.arange(window.taps[axis]) * window.dilation[axis]
    return np.unique(read).size == window.span[axis] + window.reach[axis]
