"""The window of a strided convolution, and its three bilinear products.

A window links a small grid (the output of a convolution, the input of a transposed one) with a
large image, channels last: tap t of grid point q covers image point

    i = q * stride + t * dilation - low

With B (n, *image, c), A (n, *grid, o) and a kernel K (*taps, c / groups, o) the products are

    gather   A = sum_t B[i] K[t]      a convolution
    scatter  B[i] += A[q] K[t]^T      a transposed convolution; the input gradient of gather
    kernel   K[t] = sum_q B[i]^T A[q] the kernel gradient of both

On CPU, XLA's transposed convolutions are slow (``benchmarks/README.md``), so scatter runs there as
one ordinary convolution per phase of the stride. With few image channels, where convolutions are
slow too, scatter and the kernel gradient are one matrix product with the columns of the image;
with many grid channels and positions the kernel gradient is one matrix product per tap.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array, Shaped
from fp4jax.ops.convolution import dense_gradient, planes as window_cpu

Sizes = tuple[int, ...]

# Of a kernel gradient: below, XLA:CPU's convolution is faster than a product per tap.
MANY_POSITIONS = 4096


@dataclasses.dataclass(frozen=True)
class Window:
    """Static geometry; every tuple has one entry per spatial dimension."""

    image: Sizes
    grid: Sizes
    taps: Sizes
    stride: Sizes
    dilation: Sizes
    low: Sizes
    groups: int = 1

    @property
    def ndim(self) -> int:
        return len(self.grid)

    @property
    def span(self) -> Sizes:
        """Image points between the first and the last that one tap covers, both included."""
        return tuple(
            (q - 1) * s + 1 if q else 0 for q, s in zip(self.grid, self.stride, strict=True)
        )

    @property
    def reach(self) -> Sizes:
        """Image points from the first tap to the last."""
        return tuple((t - 1) * d for t, d in zip(self.taps, self.dilation, strict=True))

    @property
    def high(self) -> Sizes:
        """Padding after the image that makes ``gather`` produce the grid; may be negative."""
        return tuple(
            span + reach - i - lo
            for i, span, reach, lo in zip(self.image, self.span, self.reach, self.low, strict=True)
        )

    @property
    def number_of_taps(self) -> int:
        return math.prod(self.taps)


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """Channels last: n, *space, c; kernels *taps, in, out."""
    data = (0, ndim + 1, *range(1, ndim + 1))
    return lax.ConvDimensionNumbers(data, (ndim + 1, ndim, *range(ndim)), data)


def gather(
    image: Shaped[Array, "n *image c"],
    kernel: Shaped[Array, "*taps i o"],
    *,
    window: Window,
    precision=None,
    preferred_element_type=None,
) -> Shaped[Array, "n *grid o"]:
    """The convolution of the image."""
    padding = tuple(zip(window.low, window.high, strict=True))
    return _convolve(
        image,
        kernel,
        window.stride,
        padding,
        window.dilation,
        window.groups,
        precision,
        preferred_element_type,
    )


def scatter(
    grid: Shaped[Array, "n *grid o"],
    kernel: Shaped[Array, "*taps i o"],
    *,
    window: Window,
    precision=None,
    preferred_element_type=None,
) -> Shaped[Array, "n *image c"]:
    """The transposed convolution of the grid: the adjoint of :func:`gather`."""
    transposed = _swap_channels(kernel, window.groups)
    if not on_cpu():
        return _scatter_dilated(grid, transposed, window, precision, preferred_element_type)
    if _few_channels(window, kernel.shape) or _few_positions(window, grid):
        channel = (((grid.ndim - 1,), (kernel.ndim - 1,)), ((), ()))
        dtype = jnp.dtype(preferred_element_type or grid.dtype)
        # Taps that overlap are added in float32 and rounded once.
        wide = window_cpu.at_least_float32(dtype)
        columns = lax.dot_general(grid, kernel, channel, precision, wide)
        return _overlap_add(columns, window).astype(dtype)
    phases = lambda phase: _phase(  # noqa: E731
        grid, transposed, phase, window, precision, preferred_element_type
    )
    image = _interleave(phases, window.stride)
    # Every phase has the size of the first, the largest: cut what is too much.
    return lax.slice(image, (0,) * image.ndim, (image.shape[0], *window.image, image.shape[-1]))


def kernel_gradient(
    image: Shaped[Array, "n *image c"],
    grid: Shaped[Array, "n *grid o"],
    *,
    window: Window,
    precision=None,
    preferred_element_type=None,
) -> Shaped[Array, "*taps i o"]:
    """The gradient of ``sum(gather(image, kernel) * grid)`` with respect to the kernel."""
    if preferred_element_type is not None:
        image, grid = (a.astype(preferred_element_type) for a in (image, grid))
    shape = (*window.taps, image.shape[-1] // window.groups, grid.shape[-1])

    positions = math.prod(grid.shape[:-1])

    def over_positions(view: Array) -> Array:
        # Without the barrier XLA:CPU writes the view transposed, at the cost of the product.
        rows = lax.optimization_barrier(view).reshape(positions, view.shape[-1])
        dims = (((0,), (0,)), ((), ()))
        columns = grid.reshape(positions, grid.shape[-1])
        return lax.dot_general(rows, columns, dims, precision, preferred_element_type)

    if on_cpu() and _few_channels(window, shape):
        return over_positions(_columns(image, window)).reshape(shape)
    if on_cpu() and _is_dense(window) and dense_gradient.pays(window.image, window.grid):
        return dense_gradient.kernel_gradient(
            image, grid, window.taps, window.low, precision, preferred_element_type
        )
    if on_cpu() and _wide_grid(window, shape, positions):
        return map_taps(lambda view, t: over_positions(view), image, window).reshape(shape)
    convolve = lambda kernel: gather(  # noqa: E731
        image,
        kernel,
        window=window,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    (gradient,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(shape, image.dtype))(grid)
    return gradient


def map_taps(
    function: Callable[[Array, Array], Array], image: Shaped[Array, "n *image c"], window: Window
) -> Shaped[Array, "taps ..."]:
    """``function(view, t)`` for each tap t, stacked; view (n, *grid, c) is what tap t covers.

    On CPU one tap after the other, in a loop: a view fits in the cache, all of them together are
    ``number_of_taps / prod(stride)`` times the image. On accelerators all taps at once.
    """
    padded = _pad_image(image, window)
    tap_index = jnp.arange(window.number_of_taps)
    strides = (1, *window.stride, 1)
    size = (image.shape[0], *window.span, image.shape[-1])

    def view(t: Array) -> Array:
        starts = []
        for taps, dilation in zip(reversed(window.taps), reversed(window.dilation), strict=True):
            starts.insert(0, (t % taps) * dilation)
            t = t // taps
        zero = jnp.zeros_like(t)
        covered = lax.dynamic_slice(padded, (zero, *starts, zero), size)
        return lax.slice(covered, (0,) * covered.ndim, size, strides)

    if on_cpu():
        return lax.map(lambda t: function(view(t), t), tap_index)
    return jax.vmap(function)(jnp.stack([view(t) for t in tap_index]), tap_index)


def on_cpu() -> bool:
    """True where XLA:CPU's convolutions have to be worked around."""
    return jax.default_backend() == "cpu"


def _convolve(
    image, kernel, strides, padding, dilation, groups, precision, preferred_element_type
) -> Array:
    """``lax.conv_general_dilated``, channels last; of volumes on CPU, plane by plane."""
    ndim = len(strides)
    c, o = image.shape[-1], kernel.shape[-1]
    if on_cpu() and groups == 1 and c % 2 and c > 1 and 16 < o < 64:
        # Several times slower than with one channel more, of zeros: 3.1 and 0.3 ms for 3 to 24
        # channels of 128 x 128 pixels.
        channel = [(0, 0, 0)] * (ndim + 1) + [(0, 1, 0)]
        image = lax.pad(image, jnp.zeros((), image.dtype), channel)
        kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*channel[1:], (0, 0, 0)])
    if ndim == 3 and groups == 1 and on_cpu():
        return window_cpu.convolve_planes(
            image, kernel, strides, padding, dilation, precision, preferred_element_type
        )
    return lax.conv_general_dilated(
        image,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(ndim),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _few_channels(window: Window, kernel_shape: Sizes) -> bool:
    """True if the columns of the image, all taps of a position, are no larger than the grid."""
    *_, i, o = kernel_shape
    return window.groups == 1 and window.number_of_taps * i <= o


def _few_positions(window: Window, grid: Array) -> bool:
    """True if it costs more to turn the kernel around than to add up the columns of the image."""
    return window.groups == 1 and math.prod(grid.shape[:-1]) <= 64


def _wide_grid(window: Window, kernel_shape: Sizes, positions: int) -> bool:
    """True if one product per tap beats XLA:CPU's convolution (1.2 to 2.8 times, measured)."""
    dense = max(window.stride, default=1) == 1
    wide = kernel_shape[-1] >= (64 if dense else 128)
    return window.groups == 1 and wide and positions >= MANY_POSITIONS


def _is_dense(window: Window) -> bool:
    """True if every image point is covered by all taps, up to the ends."""
    return window.groups == 1 and set(window.stride + window.dilation) == {1}


def _pad_image(image: Array, window: Window) -> Array:
    space = ((lo, hi, 0) for lo, hi in zip(window.low, window.high, strict=True))
    return lax.pad(image, jnp.zeros((), image.dtype), ((0, 0, 0), *space, (0, 0, 0)))


def _columns(image: Array, window: Window) -> Array:
    """im2col: (n, *grid, taps * c), the views of all taps side by side."""
    padded = _pad_image(image, window)
    views = []
    for tap in itertools.product(*map(range, window.taps)):
        start = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        stop = [b + span for b, span in zip(start, window.span, strict=True)]
        views.append(
            lax.slice(
                padded,
                (0, *start, 0),
                (padded.shape[0], *stop, padded.shape[-1]),
                (1, *window.stride, 1),
            )
        )
    return jnp.concatenate(views, -1)


def _overlap_add(columns: Array, window: Window) -> Array:
    """The adjoint of :func:`_columns`: (n, *grid, *taps, c) -> (n, *image, c), axis by axis."""
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


def _swap_channels(kernel: Array, groups: int) -> Array:
    """(*taps, c / groups, o) -> (*taps, o / groups, c): the kernel of the adjoint, not flipped."""
    *taps, i, o = kernel.shape
    grouped = kernel.reshape(*taps, i, groups, o // groups)
    return jnp.moveaxis(grouped, (-3, -2, -1), (-1, -2, -3)).reshape(*taps, o // groups, groups * i)


def _scatter_dilated(grid, transposed, window, precision, preferred_element_type):
    """scatter as a convolution of the grid with zeros between its points."""
    padding = [
        (reach - low, image + low - span)
        for image, low, span, reach in zip(
            window.image, window.low, window.span, window.reach, strict=True
        )
    ]
    return lax.conv_general_dilated(
        grid,
        lax.rev(transposed, tuple(range(window.ndim))),
        (1,) * window.ndim,
        padding,
        lhs_dilation=window.stride,
        rhs_dilation=window.dilation,
        dimension_numbers=channels_last(window.ndim),
        feature_group_count=window.groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


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


def _phase(grid, transposed, phase, window, precision, preferred_element_type) -> Array:
    """Image points p * stride + phase: a convolution of the grid with every stride-th tap.

    Tap t reaches them from grid point p + (phase + low - t * dilation) / stride, which must be an
    integer; among the taps for which it is, it falls by a constant, so their order is reversed.
    """
    starts, steps, dilations, padding = [], [], [], []
    for a in range(window.ndim):
        s, d = window.stride[a], window.dilation[a]
        step = s // math.gcd(s, d)
        offset = phase[a] + window.low[a]
        start = next(
            (t for t in range(min(step, window.taps[a])) if (offset - t * d) % s == 0), None
        )
        points = -(-window.image[a] // s)
        if start is None:
            return _no_tap(grid, transposed, window, preferred_element_type)
        count = len(range(start, window.taps[a], step))
        dilation = d // math.gcd(s, d)
        first = (offset - (start + (count - 1) * step) * d) // s
        reach = (count - 1) * dilation
        starts.append(start)
        steps.append(step)
        dilations.append(dilation)
        padding.append((-first, points + first + reach - window.grid[a]))
    limits = (*window.taps, *transposed.shape[window.ndim :])
    taps = lax.slice(transposed, (*starts, 0, 0), limits, (*steps, 1, 1))
    return _convolve(
        grid,
        lax.rev(taps, tuple(range(window.ndim))),
        (1,) * window.ndim,
        tuple(padding),
        tuple(dilations),
        window.groups,
        precision,
        preferred_element_type,
    )


def _no_tap(grid, transposed, window, preferred_element_type) -> Array:
    """The zeros of a phase that no tap reaches (stride larger than the kernel)."""
    points = (-(-i // s) for i, s in zip(window.image, window.stride, strict=True))
    dtype = preferred_element_type or grid.dtype
    return jnp.zeros((grid.shape[0], *points, transposed.shape[-1]), dtype)
