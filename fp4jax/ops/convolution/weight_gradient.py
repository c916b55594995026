"""wgrad of a quantized convolution: view by view, or as one product where nothing is quantized."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from fp4jax.core.blocks import BLOCK
from fp4jax.core.quantizer import tensor_amax
from fp4jax.core.scaling import largest
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.ops import gemm
from fp4jax.ops.amaxes import Amaxes
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.block_views import BlockViews
from fp4jax.ops.convolution.geometry import merge_groups, positions
from fp4jax.ops.convolution.plan import POSITIONS, Plan
from fp4jax.ops.over_positions import over_positions
from fp4jax.ops.role_keys import RoleKeys


def kernel_gradient(
    plan: Plan,
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
    plan: Plan, x: Array, g: Array, dtype, keys: RoleKeys | None, amaxes: Amaxes | None
) -> Array:
    """wgrad with quantized operands, contracted over positions, of both sides' channels.

    One side lies on the window's grid and is quantized once. The other is the image, of which each
    tap sees a different view, cut into blocks anew; a first pass finds the amax of all views. Taps
    that see the same blocks share them (:class:`BlockViews`), unless each rounds with bits of its
    own.
    """
    geometry = plan.geometry
    sides = (x, plan.recipe.wgrad[0], "wgrad.x"), (g, plan.recipe.wgrad[1], "wgrad.g")
    (image, image_spec, image_role), (grid, grid_spec, grid_role) = (
        sides[::-1] if geometry.mirrored else sides
    )
    image, examples = geometry.dilate(merge_groups(image)), image.shape[0]
    grid_operand = gemm.operand_of(grid_role, positions(grid), grid_spec, POSITIONS, keys, amaxes)
    split_view = lambda view: positions(geometry.split(view))  # noqa: E731
    views = BlockViews.of(geometry.window, _run(image_spec, grid_spec))
    amax = _amax_of_views(views, split_view, image, image_spec, image_role, amaxes)
    if image_spec is not None and image_spec.stochastic:
        views = BlockViews(geometry.window, outer=0)
    tap_seeds = gemm.tap_seeds(keys, image_spec, image_role, geometry.window.number_of_taps)

    def product(x: Array, g: Array, **options) -> Array:
        """(*outer taps, in, group, out) of a view and all of the grid, in positions."""
        if not views.outer:
            return jnp.moveaxis(_position_product(x, g, **options), -3, -2)
        image, grid = (merge_groups(a) for a in ((g, x) if geometry.mirrored else (x, g)))
        window = views.outer_window
        image = image.reshape(examples, *window.image, image.shape[-1])
        grid = grid.reshape(examples, *window.grid, grid.shape[-1])
        kernel = windows.kernel_gradient(image, grid, window=window, **options)
        kernel = kernel.reshape(*window.taps[: views.outer], *kernel.shape[-2:])
        return (kernel.swapaxes(-1, -2) if geometry.mirrored else kernel)[..., None, :]

    def of_view(view: Array, t: Array, grid_operand, amax, tap_seeds, on) -> Array:
        seed = None if tap_seeds is None else Seed(tap_seeds.words[t])
        part = split_view(view)
        image_operand = gemm.operand(part, image_spec, POSITIONS, seed, amax)
        image_operand = gemm.switched(image_operand, part, image_spec, POSITIONS, on)
        pair = (grid_operand, image_operand) if geometry.mirrored else (image_operand, grid_operand)
        return gemm.contract(*pair, product, dtype, plan.precision, _CHANNEL_SCALES)

    on = None if amaxes is None else amaxes.switch(image_role)
    w = views.by_taps(views.map(of_view, image, grid_operand, amax, tap_seeds, on))
    return lax.rev(w, tuple(range(geometry.window.ndim))) if geometry.mirrored else w


def _amax_of_views(
    views: BlockViews,
    split_view: Callable[[Array], Array],
    image: Array,
    spec: TensorSpec | None,
    role: str,
    amaxes: Amaxes | None,
) -> Array | None:
    """The tensor amax of what all taps see: given, or the largest of all views; None without."""
    if spec is not None and spec.amax == "static":
        return amaxes and amaxes.given[role]
    if spec is None or not spec.has_tensor_scale:
        return None
    apart = gemm.apart_of(spec, POSITIONS, 3)
    amax = largest(
        views.map(lambda view, t: tensor_amax(split_view(view), spec, (0,), apart), image)
    )
    return amax if amaxes is None else amaxes.of_shards(amax, spec)


# Several scales, (1, group, channel), of x and of g as they fit (in, group, out).
_CHANNEL_SCALES = (lambda scale: scale[0].T[:, :, None], lambda scale: scale[0])


def _run(image: TensorSpec | None, grid: TensorSpec | None) -> int:
    """Positions that must stay together: of a block of the image, and of a rotation of both."""
    rotates = any(spec is not None and spec.hadamard for spec in (image, grid))
    return math.lcm((image and image.format.block) or 1, BLOCK if rotates else 1)


def _position_product(x: Array, g: Array, **options) -> Array:
    """Sum over positions, (position, group, in) and (position, group, out) -> (group, in, out)."""
    if x.shape[1] == 1:
        # One group: an ordinary product, which is faster than a batch of one.
        return over_positions(x[:, 0], g[:, 0], **options)[None]
    return lax.dot_general(x, g, (((0,), (0,)), ((1,), (1,))), **options)
