"""The geometry of a convolution: its window, and the layout of the arrays around it.

A window links a small grid (the output of a convolution, the input of a transposed one) with a
large image, channels last: tap t of grid point q covers image point

    i = q * stride + t * dilation - low
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array

Sizes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """Static geometry; every tuple has one entry per spatial dimension.

    Example:
        >>> window = Window(
        ...     image=(8,), grid=(4,), taps=(4,), stride=(2,), dilation=(1,), low=(1,)
        ... )
        >>> window.span, window.reach, window.high
        ((7,), (3,), (1,))
    """

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
        return with_zeros_between(self.grid, self.stride)

    @property
    def reach(self) -> Sizes:
        """Image points from the first tap to the last."""
        return tuple((t - 1) * d for t, d in zip(self.taps, self.dilation, strict=True))

    @property
    def high(self) -> Sizes:
        """Padding after the image that makes a convolution produce the grid; may be negative."""
        return tuple(
            span + reach - i - lo
            for i, span, reach, lo in zip(self.image, self.span, self.reach, self.low, strict=True)
        )

    @property
    def number_of_taps(self) -> int:
        return math.prod(self.taps)

    @property
    def is_matrix_product(self) -> bool:
        """Whether every pixel of the image is in one patch, in the order of the grid.

        A kernel as large as the stride, or one pixel, of one group, without padding.

        Example:
            >>> patches = Window(
            ...     image=(8,), grid=(4,), taps=(2,), stride=(2,), dilation=(1,), low=(0,)
            ... )
            >>> patches.is_matrix_product, dataclasses.replace(patches, low=(1,)).is_matrix_product
            (True, False)
        """
        whole = tuple(g * s for g, s in zip(self.grid, self.stride, strict=True))
        return (
            self.groups == 1
            and self.taps == self.stride
            and whole == self.image
            and not any(self.low)
            and {*self.dilation} <= {1}
        )


def with_zeros_between(sizes: Sizes, dilation: Sizes) -> Sizes:
    """Sizes once ``dilation - 1`` zeros are put between neighbours; an empty axis stays empty."""
    return tuple((n - 1) * d + 1 if n else 0 for n, d in zip(sizes, dilation, strict=True))


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """Channels last: n, *space, c; kernels *taps, in, out."""
    data = (0, ndim + 1, *range(1, ndim + 1))
    return lax.ConvDimensionNumbers(data, (ndim + 1, ndim, *range(ndim)), data)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The window of a convolution, and where its arrays have their axes.

    The methods turn the user's arrays into channels-last ones, x (n, *in, c), y (n, *out, o) and w
    (*taps, in, group, out), those into what the window's products take, and back.
    """

    # True for conv_transpose: x is the grid of the window and y its image
    mirrored: bool
    window: Window
    # conv_general_dilated's lhs_dilation: zeros between the pixels of x
    input_dilation: Sizes
    layout: lax.ConvDimensionNumbers

    @property
    def is_matrix_product(self) -> bool:
        """Whether the window is one, and there are no zeros between the pixels of x."""
        return self.window.is_matrix_product and {*self.input_dilation} <= {1}

    def x(self, lhs: Array) -> Array:
        return lhs.transpose(_channels_last(self.layout.lhs_spec))

    def y(self, out: Array) -> Array:
        return out.transpose(_channels_last(self.layout.out_spec))

    def w(self, rhs: Array) -> Array:
        *taps, i, o = (rhs.shape[d] for d in self._kernel_order)
        groups = self.window.groups
        return rhs.transpose(self._kernel_order).reshape(*taps, i, groups, o // groups)

    def lhs(self, x: Array) -> Array:
        return x.transpose(_inverse(_channels_last(self.layout.lhs_spec)))

    def out(self, y: Array) -> Array:
        return y.transpose(_inverse(_channels_last(self.layout.out_spec)))

    def rhs(self, w: Array) -> Array:
        *taps, i, groups, o = w.shape
        return w.reshape(*taps, i, groups * o).transpose(_inverse(self._kernel_order))

    @property
    def _kernel_order(self) -> Sizes:
        out, channel, *taps = self.layout.rhs_spec
        return (*taps, channel, out)

    def split(self, data: Array) -> Array:
        """(n, *space, c) -> (n, *space, group, c / groups)."""
        groups = self.window.groups
        return data.reshape(*data.shape[:-1], groups, data.shape[-1] // groups)

    def as_kernel(self, w: Array) -> Array:
        """The window's kernel (*taps, image channel / groups, grid channel)."""
        *taps, i, groups, o = w.shape
        if not self.mirrored:
            return w.reshape(*taps, i, groups * o)
        return lax.rev(w.reshape(*taps, i, o).swapaxes(-1, -2), self._tap_axes)

    def from_kernel(self, kernel: Array) -> Array:
        """The inverse of :meth:`as_kernel`."""
        if not self.mirrored:
            *taps, i, o = kernel.shape
            return kernel.reshape(*taps, i, self.window.groups, o // self.window.groups)
        return lax.rev(kernel, self._tap_axes).swapaxes(-1, -2)[..., None, :]

    @property
    def _tap_axes(self) -> Sizes:
        return tuple(range(self.window.ndim))

    def dilate(self, image: Array) -> Array:
        """Inserts the zeros of ``input_dilation``."""
        if self.mirrored:
            return image
        config = [(0, 0, 0), *((0, 0, d - 1) for d in self.input_dilation), (0, 0, 0)]
        return lax.pad(image, jnp.zeros((), image.dtype), config)

    def undilate(self, image: Array) -> Array:
        """Drops what :meth:`dilate` inserted."""
        if self.mirrored:
            return image
        return lax.slice(image, (0,) * image.ndim, image.shape, (1, *self.input_dilation, 1))


def merge_groups(split: Array) -> Array:
    """(n, *space, group, c) -> (n, *space, group * c)."""
    return split.reshape(*split.shape[:-2], split.shape[-2] * split.shape[-1])


def positions(split: Array) -> Array:
    """(n, *space, group, c) -> (position, group, c)."""
    return split.reshape(math.prod(split.shape[:-2]), *split.shape[-2:])


class Resolved(NamedTuple):
    """What lax makes of a convolution's arguments."""

    geometry: Geometry
    precision: Any
    # the result's type
    out: Any


def resolve(convolution: Callable[..., Array], lhs: Any, rhs: Any, *, mirrored: bool) -> Resolved:
    """Resolves the padding, layout and dilations of a call of lax.

    Tracing lax itself checks all arguments and leaves no padding rule to repeat here.

    Args:
        convolution: ``lax.conv_general_dilated``, or with ``mirrored`` ``lax.conv_transpose``, with
            everything but the operands.
        lhs, rhs: arrays, or their types.

    Example:
        >>> import functools
        >>> same = functools.partial(
        ...     lax.conv_general_dilated, window_strides=(2,), padding="SAME",
        ...     dimension_numbers=channels_last(1),
        ... )
        >>> resolve(same, jnp.ones((1, 8, 3)), jnp.ones((4, 3, 5)), mirrored=False).geometry.window
        Window(image=(8,), grid=(4,), taps=(4,), stride=(2,), dilation=(1,), low=(1,), groups=1)
    """
    traced = jax.make_jaxpr(convolution)(lhs, rhs)
    (found,) = (e.params for e in traced.jaxpr.eqns if e.primitive is lax.conv_general_dilated_p)
    out: Any = traced.out_avals[0]
    layout = found["dimension_numbers"]
    x, y, taps = (
        tuple(shape[d] for d in spec[2:])
        for shape, spec in (
            (lhs.shape, layout.lhs_spec),
            (out.shape, layout.out_spec),
            (rhs.shape, layout.rhs_spec),
        )
    )
    dilation, low = tuple(found["rhs_dilation"]), tuple(lo for lo, _ in found["padding"])
    input_dilation = tuple(found["lhs_dilation"])
    if mirrored:
        # The window of the mirror image, its taps flipped: y[i] sees x[q] through tap t where
        # i = q * stride - t * dilation + low.
        low = tuple((t - 1) * d - lo for t, d, lo in zip(taps, dilation, low, strict=True))
        window = Window(y, x, taps, input_dilation, dilation, low)
        input_dilation = (1,) * len(x)
    else:
        image = with_zeros_between(x, input_dilation)
        stride, groups = tuple(found["window_strides"]), found["feature_group_count"]
        window = Window(image, y, taps, stride, dilation, low, groups)
    return Resolved(Geometry(mirrored, window, input_dilation, layout), found["precision"], out)


def _channels_last(spec: Sequence[int]) -> Sizes:
    batch, channel, *space = spec
    return (batch, *space, channel)


def _inverse(order: Sequence[int]) -> Sizes:
    return tuple(sorted(range(len(order)), key=order.__getitem__))
