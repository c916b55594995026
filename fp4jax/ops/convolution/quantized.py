"""conv_general_dilated and conv_transpose with a recipe: a custom_vjp of three quantized GEMMs.

Channels last, x (n, *in, c), kernel w (*taps, c / groups, o), g = dL/dy (n, *out, o). Blocks lie

    fprop  along the input channels of each tap and group: every pixel of x is quantized once
    dgrad  along the output channels of each tap and group
    wgrad  along the flattened (n, *out) positions, of g and of the patches of x under each tap

and 16x16 weight tiles over (input, output) channels per tap and group: the same codes serve fprop
and dgrad. A transposed convolution is the mirror image: its wgrad runs along the (n, *in)
positions of x, and the patches are those of g. amax always spans the whole operand, for patches
all pixels that a tap reads.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.quantizer import tensor_amax
from fp4jax.core.scaling import largest
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.ops import gemm
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.products import Window
from fp4jax.ops.gemm import BlockAxes
from fp4jax.ops.recipe import Recipe, get_recipe

# Operands as the quantizer sees them. Data: (n, *space, group, channel); kernels:
# (*taps, in, group, out); in wgrad (position, group, channel) on both sides.
_CHANNELS = BlockAxes(contracted=-1, tile=None)
_KERNEL_IN = BlockAxes(contracted=-3, tile=(-1, -3))
_KERNEL_OUT = BlockAxes(contracted=-1, tile=(-1, -3))
_POSITIONS = BlockAxes(contracted=0, tile=None)


def conv_general_dilated(
    lhs: Shaped[ArrayLike, "..."],
    rhs: Shaped[ArrayLike, "..."],
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
    *,
    recipe: str | int | Recipe,
    key: Array | None = None,
) -> Shaped[Array, "..."]:
    """``jax.lax.conv_general_dilated`` whose three products are quantized by a recipe.

    Any number of spatial dimensions, any layout (``dimension_numbers``), stride, padding, dilation
    of kernel and input, and feature groups. See the module's text for where blocks lie.

    Args:
        lhs, rhs, ..., out_sharding: as for ``jax.lax.conv_general_dilated``. Sums are taken in
            float32 whatever the result's dtype.
        recipe: a Recipe, its name, or the paper's id.
        key: ``jax.random`` key, needed if the recipe is stochastic; a new one for every step and
            layer.

    Returns:
        What ``jax.lax.conv_general_dilated`` returns. Gradients have their primals' dtypes and
        shardings; there is no forward-mode derivative. The baseline recipe computes the same
        function as lax, with gradients that are faster on CPU. Under ``shard_map`` gradients with
        an unquantized wgrad need ``check_vma=False``.

    Raises:
        ValueError: for dtypes that cannot be quantized, a missing key, batch_group_count > 1 with
            a recipe that quantizes, or 16x16 tiles on anything but the kernel.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 4))
        >>> layout = ("NHWC", "HWIO", "NHWC")
        >>> conv_general_dilated(
        ...     x, w, (1, 1), "SAME", dimension_numbers=layout, recipe="full"
        ... ).shape
        (1, 8, 8, 4)
    """
    recipe = get_recipe(recipe)
    lhs, rhs = gemm.checked("conv_general_dilated", lhs, rhs, recipe, key)
    product = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if not recipe.quantizes and not (windows.on_cpu() and batch_group_count == 1):
        return product(lhs, rhs)
    if batch_group_count != 1:
        raise ValueError(
            f"batch_group_count is {batch_group_count}; quantized convolutions take 1. "
            "Use recipe='baseline' for this convolution, or feature_group_count."
        )
    return _convolve(product, lhs, rhs, recipe, key, mirrored=False)


def conv_transpose(
    lhs: Shaped[ArrayLike, "..."],
    rhs: Shaped[ArrayLike, "..."],
    strides: Sequence[int],
    padding: Any,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    use_consistent_padding: bool = False,
    *,
    out_sharding: Any = None,
    recipe: str | int | Recipe,
    key: Array | None = None,
) -> Shaped[Array, "..."]:
    """``jax.lax.conv_transpose`` whose three products are quantized by a recipe.

    The mirror image of :func:`conv_general_dilated`: fprop contracts input channels, dgrad (a
    strided convolution of g) output channels, wgrad the (n, *in) positions of x and the patches
    of g. On CPU it is much faster than ``jax.lax.conv_transpose``, gradients above all.

    Args:
        lhs, rhs, ..., use_consistent_padding: as for ``jax.lax.conv_transpose``.
        out_sharding, recipe, key: as for :func:`conv_general_dilated`.

    Returns, raises: as :func:`conv_general_dilated`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((1, 8, 8, 16)), jnp.ones((4, 4, 16, 8))
        >>> conv_transpose(x, w, (2, 2), "SAME", recipe="full").shape
        (1, 16, 16, 8)
    """
    recipe = get_recipe(recipe)
    lhs, rhs = gemm.checked("conv_transpose", lhs, rhs, recipe, key)
    product = functools.partial(
        lax.conv_transpose,
        strides=strides,
        padding=padding,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        use_consistent_padding=use_consistent_padding,
    )
    if transpose_kernel:
        if dimension_numbers is None:
            dimension_numbers = windows.channels_last(lhs.ndim - 2)
        layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        rhs = lax.rev(rhs, layout.rhs_spec[2:]).swapaxes(*layout.rhs_spec[:2])
    return _convolve(product, lhs, rhs, recipe, key, mirrored=True, out_sharding=out_sharding)


def _convolve(product, lhs, rhs, recipe, key, mirrored, out_sharding=None) -> Array:
    """Lets lax resolve the arguments, then runs the plan made from what it says."""
    lhs, rhs = sharding.varying_together(lhs, rhs, key)
    # Tracing lax itself checks all arguments and leaves no padding rule to repeat here.
    operands = lhs, rhs
    if out_sharding is not None:
        # lax.conv_transpose cannot be told y's sharding, so it must not have to infer one.
        operands = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands)
    traced = jax.make_jaxpr(product)(*operands)
    (resolved,) = (e.params for e in traced.jaxpr.eqns if e.primitive is lax.conv_general_dilated_p)
    (out,) = traced.out_avals
    if out_sharding is None and sharding.explicit_mesh():
        out_sharding = out.sharding
    plan = _Plan(
        recipe=recipe,
        mirrored=mirrored,
        window=_window(lhs.shape, rhs.shape, out.shape, resolved, mirrored),
        input_dilation=(1,) * (lhs.ndim - 2) if mirrored else tuple(resolved["lhs_dilation"]),
        layout=resolved["dimension_numbers"],
        precision=resolved["precision"],
        out_dtype=out.dtype,
        out_sharding=out_sharding,
    )
    return _jitted(plan, lhs, rhs, key)


def _window(lhs_shape, rhs_shape, out_shape, resolved: dict[str, Any], mirrored: bool) -> Window:
    """The window between x and y; that of a transposed convolution has its taps flipped."""
    layout = resolved["dimension_numbers"]
    x, y, taps = (
        tuple(shape[d] for d in spec[2:])
        for shape, spec in (
            (lhs_shape, layout.lhs_spec),
            (out_shape, layout.out_spec),
            (rhs_shape, layout.rhs_spec),
        )
    )
    dilation, low = tuple(resolved["rhs_dilation"]), tuple(lo for lo, _ in resolved["padding"])
    input_dilation = tuple(resolved["lhs_dilation"])
    if mirrored:
        # y[i] sees x[q] through tap t where i = q * stride - t * dilation + low.
        low = tuple((t - 1) * d - lo for t, d, lo in zip(taps, dilation, low, strict=True))
        return Window(y, x, taps, input_dilation, dilation, low)
    dilated = tuple((i - 1) * d + 1 if i else 0 for i, d in zip(x, input_dilation, strict=True))
    stride, groups = tuple(resolved["window_strides"]), resolved["feature_group_count"]
    return Window(dilated, y, taps, stride, dilation, low, groups)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that is static: geometry, layout and how to quantize.

    The methods turn the user's arrays into channels-last ones and those into what the quantizer
    (``split_*``) and the window's products (``as_*``) take, and back.
    """

    recipe: Recipe
    # True for conv_transpose: x is the grid of the window and y its image
    mirrored: bool
    window: Window
    # conv_general_dilated's lhs_dilation: zeros between the pixels of x
    input_dilation: tuple[int, ...]
    layout: lax.ConvDimensionNumbers
    precision: Any
    out_dtype: Any
    out_sharding: Any

    def x(self, lhs: Array) -> Array:
        return lhs.transpose(_channels_last(self.layout.lhs_spec))

    def y(self, out: Array) -> Array:
        return out.transpose(_channels_last(self.layout.out_spec))

    def w(self, rhs: Array) -> Array:
        """(*taps, in, group, out)."""
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
    def _kernel_order(self) -> tuple[int, ...]:
        out, channel, *taps = self.layout.rhs_spec
        return (*taps, channel, out)

    def split(self, data: Array) -> Array:
        """(n, *space, c) -> (n, *space, group, c / groups)."""
        groups = self.window.groups
        return data.reshape(*data.shape[:-1], groups, data.shape[-1] // groups)

    def image_product(self, product, data: Array, w: Array, **options) -> Array:
        """``product`` (gather or scatter) of split data and kernel values."""
        merged = _merge(data)
        if product is windows.gather:
            merged = self.dilate(merged)
        y = product(merged, self.as_kernel(w), window=self.window, **options)
        return self.undilate(y) if product is windows.scatter else y

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
    def _tap_axes(self) -> tuple[int, ...]:
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


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channel, *space = spec
    return (batch, *space, channel)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(plan: _Plan, lhs: Array, rhs: Array, key: Array | None) -> Array:
    @jax.named_scope("fp4_fprop")
    def fprop(lhs, rhs, key):
        x, w = (plan.split(plan.x(lhs)), _CHANNELS), (plan.w(rhs), _KERNEL_IN)
        x, w = gemm.pair(plan.recipe, "fprop", x, w, key)
        kind = windows.scatter if plan.mirrored else windows.gather
        product = functools.partial(plan.image_product, kind)
        return plan.out(gemm.contract(x, w, product, plan.out_dtype, plan.precision))

    return sharding.automatic(fprop, plan.out_sharding)(lhs, rhs, key)


def _forward(plan: _Plan, lhs: Array, rhs: Array, key: Array | None):
    return _conv(plan, lhs, rhs, key), (lhs, rhs, key)


def _backward(plan: _Plan, saved, g):
    lhs, rhs, key = saved

    @jax.named_scope("fp4_dgrad")
    def dgrad(g, rhs, key):
        w = gemm.residual(plan.recipe, "fprop.w", plan.w(rhs), _KERNEL_IN, key)
        g, w = (plan.split(plan.y(g)), _CHANNELS), (w, _KERNEL_OUT)
        g, w = gemm.pair(plan.recipe, "dgrad", g, w, key)
        kind = windows.gather if plan.mirrored else windows.scatter
        product = functools.partial(plan.image_product, kind)
        return plan.lhs(gemm.contract(g, w, product, lhs.dtype, plan.precision))

    @jax.named_scope("fp4_wgrad")
    def wgrad(g, lhs, key):
        x = gemm.residual(plan.recipe, "fprop.x", plan.split(plan.x(lhs)), _CHANNELS, key)
        return plan.rhs(_wgrad(plan, x, plan.split(plan.y(g)), rhs.dtype, key))

    dx = sharding.automatic(dgrad, sharding.of(lhs))(g, rhs, key)
    dw = sharding.automatic(wgrad, sharding.of(rhs))(g, lhs, key)
    return dx, dw, None


# Eager calls are one program each way, too, and traced once; inlined into a surrounding jit.
_conv.defvjp(_forward, jax.jit(_backward, static_argnums=0, inline=True))
_jitted = jax.jit(_conv, static_argnums=0, inline=True)


def _wgrad(plan: _Plan, x: Array | gemm.Operand, g: Array, dtype, key: Array | None) -> Array:
    """The kernel's gradient (*taps, in, group, out), from split x and g."""
    if plan.recipe.wgrad == (None, None):

        def product(x, g, **options):
            x, g = _merge(x), _merge(g)
            image, grid = (g, x) if plan.mirrored else (plan.dilate(x), g)
            dw = windows.kernel_gradient(image, grid, window=plan.window, **options)
            sharding.check_varies_with(dw, image, grid)
            return dw

        x = x if isinstance(x, gemm.Operand) else gemm.Operand(x, None)
        return plan.from_kernel(
            gemm.contract(x, gemm.Operand(g, None), product, dtype, plan.precision)
        )
    return _wgrad_by_taps(plan, gemm.dequantized(x), g, dtype, key)


def _wgrad_by_taps(plan: _Plan, x: Array, g: Array, dtype, key: Array | None) -> Array:
    """wgrad with quantized operands: for each tap, positions x channels of both sides.

    One side lies on the window's grid and is quantized once. The other is the image, of which each
    tap sees a different view, cut into blocks anew; a first pass finds the amax of all views.
    """
    x_spec, g_spec = plan.recipe.wgrad
    x_key, g_key = gemm.role_key(key, "wgrad.x"), gemm.role_key(key, "wgrad.g")
    if plan.mirrored:
        (image, image_spec, image_key), (grid, grid_spec, grid_key) = (
            (g, g_spec, g_key),
            (x, x_spec, x_key),
        )
    else:
        (image, image_spec, image_key), (grid, grid_spec, grid_key) = (
            (x, x_spec, x_key),
            (g, g_spec, g_key),
        )
    image = plan.dilate(_merge(image))
    grid_operand = gemm.operand(_positions(grid), grid_spec, _POSITIONS, grid_key)
    split_view = lambda view: _positions(plan.split(view))  # noqa: E731
    amax = None
    if image_spec is not None:
        per_tap = windows.map_taps(
            lambda view, t: tensor_amax(split_view(view), image_spec, (0,)), image, plan.window
        )
        amax = largest(per_tap)

    def one_tap(view: Array, t: Array) -> Array:
        tap_key = None if image_key is None else jax.random.fold_in(image_key, t)
        image_operand = gemm.operand(split_view(view), image_spec, _POSITIONS, tap_key, amax)
        pair = (grid_operand, image_operand) if plan.mirrored else (image_operand, grid_operand)
        return gemm.contract(*pair, _position_product, dtype, plan.precision)

    taps = windows.map_taps(one_tap, image, plan.window)
    # (tap, group, in, out) -> (*taps, in, group, out)
    w = jnp.moveaxis(taps.reshape(*plan.window.taps, *taps.shape[1:]), -3, -2)
    return lax.rev(w, tuple(range(plan.window.ndim))) if plan.mirrored else w


def _positions(split: Array) -> Array:
    """(n, *space, group, c) -> (position, group, c)."""
    return split.reshape(math.prod(split.shape[:-2]), *split.shape[-2:])


def _merge(split: Array) -> Array:
    """(n, *space, group, c) -> (n, *space, group * c)."""
    return split.reshape(*split.shape[:-2], split.shape[-2] * split.shape[-1])


def _position_product(x: Array, g: Array, **options) -> Array:
    """Sum over positions, (position, group, in) and (position, group, out) -> (group, in, out)."""
    if x.shape[1] == 1:
        # One group: an ordinary product, which is faster than a batch of one.
        return lax.dot_general(x[:, 0], g[:, 0], (((0,), (0,)), ((), ())), **options)[None]
    return lax.dot_general(x, g, (((0,), (0,)), ((1,), (1,))), **options)
