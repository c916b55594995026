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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.quantizer import tensor_amax
from fp4jax.core.scaling import largest
from fp4jax.core.seeds import AxisName, Seed
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.ops import gemm
from fp4jax.ops.amaxes import Amaxes, amaxes
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.geometry import (
    Geometry,
    channels_last,
    merge_groups,
    positions,
    resolve,
)
from fp4jax.ops.convolution.taps import map_taps
from fp4jax.ops.gemm import BlockAxes
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.role_keys import RoleKeys, role_keys

# Operands as the quantizer sees them. Data: (n, *space, group, channel); kernels:
# (*taps, in, group, out); in wgrad (position, group, channel) on both sides.
CHANNELS = BlockAxes(contracted=-1, tile=None)
KERNEL_IN = BlockAxes(contracted=-3, tile=(-1, -3), rows=(-2, -1))
KERNEL_OUT = BlockAxes(contracted=-1, tile=(-1, -3), rows=(-3, -2))
POSITIONS = BlockAxes(contracted=0, tile=None, rows=(-2, -1))


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
    key: Array | RoleKeys | None = None,
    amax: Mapping[str, Any] | None = None,
    axis_name: AxisName = None,
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
        amax, axis_name: as for :func:`fp4jax.dot_general`.

    Returns:
        What ``jax.lax.conv_general_dilated`` returns. Gradients have their primals' dtypes and
        shardings. A recipe that quantizes nothing computes the same function as lax, has all its
        derivatives, and is faster on CPU; one that quantizes has no forward-mode derivative.
        Gradients of gradients pass straight through the rounding.

    Raises:
        TypeError: from JAX, for ``jax.jvp``, ``jax.jacfwd`` or ``jax.linearize`` of a call whose
            recipe quantizes: rounding has no derivative, only a rule for reverse mode.
        ValueError: for dtypes that cannot be quantized, a missing key, batch_group_count > 1 with
            a recipe that quantizes, a missing or unused amax, 16x16 tiles on anything but the
            kernel, or ``amax="row"`` for x in fprop or g in dgrad: an output sums several pixels.

    With ``amax="example"`` each image has a tensor scale of its own; with "row" each output channel
    of the kernel in fprop, each input channel in dgrad, and each channel of both sides in wgrad.

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
    if batch_group_count != 1:
        if not recipe.quantizes:
            return product(lhs, rhs)
        raise ValueError(
            f"batch_group_count is {batch_group_count}; quantized convolutions take 1. "
            "Use recipe='baseline' for this convolution, or feature_group_count."
        )
    given = amaxes("conv_general_dilated", recipe, amax, axis_name)
    return _convolve(product, lhs, rhs, recipe, key, given, mirrored=False)


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
    key: Array | RoleKeys | None = None,
    amax: Mapping[str, Any] | None = None,
    axis_name: AxisName = None,
) -> Shaped[Array, "..."]:
    """``jax.lax.conv_transpose`` whose three products are quantized by a recipe.

    The mirror image of :func:`conv_general_dilated`: fprop contracts input channels, dgrad (a
    strided convolution of g) output channels, wgrad the (n, *in) positions of x and the patches
    of g. On CPU it is much faster than ``jax.lax.conv_transpose``, gradients above all.

    Args:
        lhs, rhs, ..., use_consistent_padding: as for ``jax.lax.conv_transpose``.
        out_sharding, recipe, key, amax, axis_name: as for :func:`conv_general_dilated`.

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
            dimension_numbers = channels_last(lhs.ndim - 2)
        layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        rhs = lax.rev(rhs, layout.rhs_spec[2:]).swapaxes(*layout.rhs_spec[:2])
    given = amaxes("conv_transpose", recipe, amax, axis_name)
    return _convolve(
        product, lhs, rhs, recipe, key, given, mirrored=True, out_sharding=out_sharding
    )


def _convolve(
    product, lhs, rhs, recipe, key, given: Amaxes | None, mirrored, out_sharding=None
) -> Array:
    """Lets lax resolve the arguments, then runs the plan made from what it says."""
    axis_name = None if given is None else given.axis_name
    keys = role_keys(key, lhs, rhs, axis_name=axis_name) if recipe.stochastic else None
    if keys is not None and recipe.stochastic_forward:
        keys = keys.of_data(lhs)
    lhs, rhs = sharding.varying_together(lhs, rhs, *jax.tree.leaves(keys))
    operands = lhs, rhs
    if out_sharding is not None:
        # lax.conv_transpose cannot be told y's sharding, so it must not have to infer one.
        operands = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands)
    resolved = resolve(product, *operands, mirrored=mirrored)
    if out_sharding is None and sharding.explicit_mesh():
        out_sharding = resolved.out.sharding
    plan = _Plan(
        recipe, resolved.geometry, resolved.precision, jnp.dtype(resolved.out.dtype), out_sharding
    )
    return (_quantized if recipe.quantizes else _unquantized)(plan, lhs, rhs, keys, given)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that is static: geometry, and how to quantize."""

    recipe: Recipe
    geometry: Geometry
    precision: Any
    out_dtype: Any
    out_sharding: Any

    @property
    def shares_w(self) -> bool:
        """Whether fprop leaves its w for dgrad; on explicit meshes it has no sharding to name."""
        return self.recipe.shares_w and self.out_sharding is None

    @property
    def products(self) -> tuple[Callable[..., Array], Callable[..., Array]]:
        """fprop's and dgrad's, each the other's adjoint."""
        if self.geometry.mirrored:
            return windows.scatter, windows.gather
        return windows.gather, windows.scatter

    def multiply(self, product: Callable[..., Array], data: Array, w: Array, **options) -> Array:
        """``product`` (gather or scatter) of split data and kernel values."""
        geometry, merged = self.geometry, merge_groups(data)
        if product is windows.gather:
            merged = geometry.dilate(merged)
        y = product(merged, geometry.as_kernel(w), window=geometry.window, **options)
        return geometry.undilate(y) if product is windows.scatter else y

    def contract(
        self, data: gemm.Operand, w: gemm.Operand, product: Callable, dtype, by_inputs: bool
    ) -> Array:
        """``product`` (gather or scatter) of quantized data and kernel, and their scales.

        Several scales of the kernel are one for each channel of the result: its inputs in dgrad.
        """

        def of_data(scale: Array) -> Array:
            return scale.reshape(scale.shape[:-1])

        def of_kernel(scale: Array) -> Array:
            channels = scale.swapaxes(-3, -2) if by_inputs else scale
            return channels.reshape((1,) * (self.geometry.window.ndim + 1) + (-1,))

        multiply = functools.partial(self.multiply, product)
        return gemm.contract(data, w, multiply, dtype, self.precision, (of_data, of_kernel))


def _data_axes(split: Array) -> BlockAxes:
    """Of data (n, *space, group, channel)."""
    return CHANNELS._replace(examples=(-split.ndim, split.shape[0], 1))


def _fprop(plan: _Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None):
    """y, and w as it was quantized where dgrad takes the same codes (else None)."""
    geometry = plan.geometry

    @jax.named_scope(plan.recipe.scope("fprop"))
    def fprop(lhs, rhs, keys, amaxes):
        split = geometry.split(geometry.x(lhs))
        x, w = (split, _data_axes(split)), (geometry.w(rhs), KERNEL_IN)
        x, w = gemm.pair(plan.recipe, "fprop", x, w, keys, amaxes)
        y = plan.contract(x, w, plan.products[0], plan.out_dtype, by_inputs=False)
        return geometry.out(y), w if plan.shares_w else None

    out_sharding = None if plan.out_sharding is None else (plan.out_sharding, None)
    return sharding.automatic(fprop, out_sharding)(lhs, rhs, keys, amaxes)


def _y(plan: _Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None) -> Array:
    return _fprop(plan, lhs, rhs, keys, amaxes)[0]


_conv = jax.custom_vjp(_y, nondiff_argnums=(0,))


def _forward(plan: _Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None):
    y, w = _fprop(plan, lhs, rhs, keys, amaxes)
    return y, (lhs, rhs, w, gemm.backward_keys(plan.recipe, keys, y), amaxes)


def _backward(plan: _Plan, saved, g):
    lhs, rhs, w, keys, amaxes = saved
    geometry = plan.geometry

    @jax.named_scope(plan.recipe.scope("dgrad"))
    def dgrad(g, rhs, w, keys, amaxes):
        recipe = plan.recipe if w is None else plan.recipe.without_dgrad_w
        if w is None:
            w = gemm.residual(recipe, "fprop.w", geometry.w(rhs), KERNEL_IN, keys, amaxes)
        split = geometry.split(geometry.y(g))
        g, w = (split, _data_axes(split)), (w, KERNEL_OUT)
        g, w = gemm.pair(recipe, "dgrad", g, w, keys, amaxes)
        return geometry.lhs(plan.contract(g, w, plan.products[1], lhs.dtype, by_inputs=True))

    @jax.named_scope(plan.recipe.scope("wgrad"))
    def wgrad(g, lhs, keys, amaxes):
        x = geometry.split(geometry.x(lhs))
        x = gemm.residual(plan.recipe, "fprop.x", x, _data_axes(x), keys, amaxes)
        g = geometry.split(geometry.y(g))
        return geometry.rhs(_wgrad(plan, x, g, rhs.dtype, keys, amaxes))

    dx = sharding.automatic(dgrad, sharding.of(lhs))(g, rhs, w, keys, amaxes)
    dw = sharding.automatic(wgrad, sharding.of(rhs))(g, lhs, keys, amaxes)
    return dx, dw, None, None


# Eager calls are one program each way, too, and traced once; inlined into a surrounding jit.
_conv.defvjp(_forward, jax.jit(_backward, static_argnums=0, inline=True))
_quantized = jax.jit(_conv, static_argnums=0, inline=True)
# The products' own derivatives are those of a convolution.
_unquantized = jax.jit(_y, static_argnums=0, inline=True)


def _wgrad(
    plan: _Plan,
    x: Array | gemm.Operand,
    g: Array,
    dtype,
    keys: RoleKeys | None,
    amaxes: Amaxes | None,
) -> Array:
    """The kernel's gradient (*taps, in, group, out), from split x and g."""
    geometry = plan.geometry
    if plan.recipe.wgrad == (None, None):

        def product(x, g, **options):
            x, g = merge_groups(x), merge_groups(g)
            image, grid = (g, x) if geometry.mirrored else (geometry.dilate(x), g)
            return windows.kernel_gradient(image, grid, window=geometry.window, **options)

        x = x if isinstance(x, gemm.Operand) else gemm.Operand(x, None)
        return geometry.from_kernel(
            gemm.contract(x, gemm.Operand(g, None), product, dtype, plan.precision)
        )
    return _wgrad_by_taps(plan, gemm.dequantized(x), g, dtype, keys, amaxes)


def _wgrad_by_taps(
    plan: _Plan, x: Array, g: Array, dtype, keys: RoleKeys | None, amaxes: Amaxes | None
) -> Array:
    """wgrad with quantized operands: for each tap, positions x channels of both sides.

    One side lies on the window's grid and is quantized once. The other is the image, of which each
    tap sees a different view, cut into blocks anew; a first pass finds the amax of all views.
    """
    geometry = plan.geometry
    sides = (x, plan.recipe.wgrad[0], "wgrad.x"), (g, plan.recipe.wgrad[1], "wgrad.g")
    (image, image_spec, image_role), (grid, grid_spec, grid_role) = (
        sides[::-1] if geometry.mirrored else sides
    )
    image = geometry.dilate(merge_groups(image))
    grid_operand = gemm.operand_of(grid_role, positions(grid), grid_spec, POSITIONS, keys, amaxes)
    tap_seeds = gemm.tap_seeds(keys, image_spec, image_role, geometry.window.number_of_taps)
    split_view = lambda view: positions(geometry.split(view))  # noqa: E731
    amax = None
    if image_spec is not None and image_spec.amax == "static":
        amax = amaxes and amaxes.given[image_role]
    elif image_spec is not None:
        apart = gemm.apart_of(image_spec, POSITIONS, 3)
        per_tap = map_taps(
            lambda view, t: tensor_amax(split_view(view), image_spec, (0,), apart),
            image,
            geometry.window,
        )
        amax = largest(per_tap)
        amax = amax if amaxes is None else amaxes.of_shards(amax, image_spec)

    def one_tap(view: Array, t: Array, grid_operand, amax, tap_seeds) -> Array:
        seed = None if tap_seeds is None else Seed(tap_seeds.words[t])
        image_operand = gemm.operand(split_view(view), image_spec, POSITIONS, seed, amax)
        pair = (grid_operand, image_operand) if geometry.mirrored else (image_operand, grid_operand)
        return gemm.contract(*pair, _position_product, dtype, plan.precision, _CHANNEL_SCALES)

    taps = map_taps(one_tap, image, geometry.window, grid_operand, amax, tap_seeds)
    # (tap, group, in, out) -> (*taps, in, group, out)
    w = jnp.moveaxis(taps.reshape(*geometry.window.taps, *taps.shape[1:]), -3, -2)
    return lax.rev(w, tuple(range(geometry.window.ndim))) if geometry.mirrored else w


# Several scales, (1, group, channel), of x and of g where :func:`_position_product` has them.
_CHANNEL_SCALES = (lambda scale: scale[0][:, :, None], lambda scale: scale[0][:, None, :])


def _position_product(x: Array, g: Array, **options) -> Array:
    """Sum over positions, (position, group, in) and (position, group, out) -> (group, in, out)."""
    if x.shape[1] == 1:
        # One group: an ordinary product, which is faster than a batch of one.
        return lax.dot_general(x[:, 0], g[:, 0], (((0,), (0,)), ((), ())), **options)[None]
    return lax.dot_general(x, g, (((0,), (0,)), ((1,), (1,))), **options)
