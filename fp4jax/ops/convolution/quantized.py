"""conv_general_dilated and conv_transpose with a recipe: three quantized GEMMs, and a tangent.

Channels last, x (n, *in, c), kernel w (*taps, c / groups, o), g = dL/dy (n, *out, o). Blocks lie

    fprop  along the input channels of each tap and group: every pixel of x is quantized once
    dgrad  along the output channels of each tap and group
    wgrad  along the flattened (n, *out) positions, of g and of the patches of x under each tap

and 16x16 weight tiles over (input, output) channels per tap and group: the same codes serve fprop
and dgrad. A transposed convolution is the mirror image: its wgrad runs along the (n, *in)
positions of x, and the patches are those of g. amax always spans the whole operand, for patches
all pixels that a tap reads.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core import sharding
from fp4jax.core.seeds import AxisName
from fp4jax.core.two_modes import two_modes
from fp4jax.core.typing import Array, ArrayLike, DTypeLike, Shaped
from fp4jax.ops import gemm
from fp4jax.ops.amaxes import Amaxes, amaxes, has_switches
from fp4jax.ops.convolution.geometry import channels_last, resolve
from fp4jax.ops.convolution.plan import KERNEL_IN, KERNEL_OUT, Plan, data_axes
from fp4jax.ops.convolution.weight_gradient import kernel_gradient
from fp4jax.ops.hooks import settled
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.ops.role_keys import RoleKeys, role_keys


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
    switches: Mapping[str, Any] | None = None,
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
        amax, axis_name, switches: as for :func:`fp4jax.dot_general`.

    Returns:
        What ``jax.lax.conv_general_dilated`` returns. Gradients have their primals' dtypes and
        shardings. A recipe that quantizes nothing computes the same function as lax, has all its
        derivatives, and is faster on CPU. Forward mode, and gradients of gradients, as of
        :func:`fp4jax.dot_general`.

    Raises:
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
    given = amaxes("conv_general_dilated", recipe, amax, axis_name, switches)
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
    switches: Mapping[str, Any] | None = None,
) -> Shaped[Array, "..."]:
    """``jax.lax.conv_transpose`` whose three products are quantized by a recipe.

    The mirror image of :func:`conv_general_dilated`: fprop contracts input channels, dgrad (a
    strided convolution of g) output channels, wgrad the (n, *in) positions of x and the patches
    of g. On CPU it is much faster than ``jax.lax.conv_transpose``, gradients above all.

    Args:
        lhs, rhs, ..., use_consistent_padding: as for ``jax.lax.conv_transpose``.
        out_sharding, recipe, key, ..., switches: as for :func:`conv_general_dilated`.

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
    given = amaxes("conv_transpose", recipe, amax, axis_name, switches)
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
    plan = Plan(
        recipe, resolved.geometry, resolved.precision, jnp.dtype(resolved.out.dtype), out_sharding
    )
    lhs, given = settled(plan, lhs, given)
    return (_quantized if recipe.quantizes else _unquantized)(plan, lhs, rhs, keys, given)


def _fprop(plan: Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None):
    """y, and w as it was quantized where dgrad takes the same codes (else None)."""
    geometry = plan.geometry
    shares_w = plan.shares_w and not has_switches(amaxes)

    @jax.named_scope(plan.recipe.scope("fprop"))
    def fprop(lhs, rhs, keys, amaxes):
        x, w = plan.fprop_x(lhs), (geometry.w(rhs), KERNEL_IN)
        x, w = gemm.pair(plan.recipe, "fprop", x, w, keys, amaxes)
        y = plan.contract(x, w, plan.products[0], plan.out_dtype, by_inputs=False)
        return geometry.out(y), w if shares_w else None

    out_sharding = None if plan.out_sharding is None else (plan.out_sharding, None)
    return sharding.automatic(fprop, out_sharding)(lhs, rhs, keys, amaxes)


def _y(plan: Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None) -> Array:
    return _fprop(plan, lhs, rhs, keys, amaxes)[0]


def _forward(plan: Plan, lhs: Array, rhs: Array, keys: RoleKeys | None, amaxes: Amaxes | None):
    y, w = _fprop(plan, lhs, rhs, keys, amaxes)
    return y, (lhs, rhs, w, (keys, gemm.backward_keys(plan.recipe, keys, y)), amaxes)


def _backward(plan: Plan, saved, g):
    lhs, rhs, w, (_, keys), amaxes = saved
    g = gemm.for_quantizers(plan.recipe, g)
    geometry = plan.geometry

    @jax.named_scope(plan.recipe.scope("dgrad"))
    def dgrad(g, rhs, w, keys, amaxes):
        recipe = plan.recipe if w is None else plan.recipe.without_dgrad_w
        if w is None:
            w = gemm.residual(recipe, "fprop.w", geometry.w(rhs), KERNEL_IN, keys, amaxes)
        split = geometry.split(geometry.y(g))
        g, w = (split, data_axes(split)), (w, KERNEL_OUT)
        g, w = gemm.pair(recipe, "dgrad", g, w, keys, amaxes)
        return geometry.lhs(plan.contract(g, w, plan.products[1], lhs.dtype, by_inputs=True))

    @jax.named_scope(plan.recipe.scope("wgrad"))
    def wgrad(g, lhs, keys, amaxes):
        x = geometry.split(geometry.x(lhs))
        x = gemm.residual(plan.recipe, "fprop.x", x, data_axes(x), keys, amaxes)
        g = geometry.split(geometry.y(g))
        return geometry.rhs(kernel_gradient(plan, x, g, rhs.dtype, keys, amaxes))

    dx = sharding.automatic(dgrad, sharding.of(lhs))(g, rhs, w, keys, amaxes)
    dw = sharding.automatic(wgrad, sharding.of(rhs))(g, lhs, keys, amaxes)
    return dx, dw


def _tangent(plan: Plan, saved, tangents):
    """dx Q(w) + Q(x) dw, with the operands that fprop multiplied."""
    lhs, rhs, w, (keys, _), amaxes = saved
    dlhs, drhs = tangents
    geometry = plan.geometry

    @jax.named_scope(plan.recipe.scope("fprop"))
    def tangent(lhs, rhs, w, keys, amaxes, dlhs, drhs):
        dx = None if dlhs is None else plan.fprop_x(dlhs)[0]
        dw = None if drhs is None else geometry.w(drhs)
        x, w = plan.fprop_x(lhs), (geometry.w(rhs) if w is None else w, KERNEL_IN)
        contract = functools.partial(
            plan.contract, product=plan.products[0], dtype=jnp.float32, by_inputs=False
        )
        dy = gemm.tangent(plan.recipe, (x, w), (dx, dw), keys, amaxes, contract)
        return geometry.out(dy.astype(plan.out_dtype))

    of_out = sharding.automatic(tangent, plan.out_sharding)
    return of_out(lhs, rhs, w, keys, amaxes, dlhs, drhs)


# Eager calls are one program each way, too, and traced once; inlined into a surrounding jit.
_conv = two_modes(_forward, _tangent, jax.jit(_backward, static_argnums=0, inline=True))
_quantized = jax.jit(_conv, static_argnums=0, inline=True)
# The products' own derivatives are those of a convolution.
_unquantized = jax.jit(_y, static_argnums=0, inline=True)
