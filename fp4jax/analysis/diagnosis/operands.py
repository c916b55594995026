"""The six operands of a layer as its quantizers see them, and what becomes of each.

The views (which axis is contracted, what a convolution's taps see) are those of the library's own
plans; ``tests/analysis/test_diagnosis_operands.py`` checks that they give the library's products.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax import nnx as fp4nnx
from fp4jax.analysis.diagnosis.counts import OperandSums, tally
from fp4jax.analysis.diagnosis.recording import Call, Tensors
from fp4jax.core.quantizer import tensor_amax
from fp4jax.core.scaling import largest
from fp4jax.core.seeds import Seed
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.ops import gemm
from fp4jax.ops.convolution import plan as conv
from fp4jax.ops.convolution.geometry import Geometry, merge_groups, positions, resolve
from fp4jax.ops.convolution.taps import map_taps
from fp4jax.ops.dot import (
    G_DGRAD,
    G_WGRAD,
    W_DGRAD,
    W_FPROP,
    X_FPROP,
    X_WGRAD,
    DotPlan,
)
from fp4jax.ops.gemm import BlockAxes
from fp4jax.ops.recipe import ROLES, Recipe
from fp4jax.ops.role_keys import RoleKeys, role_keys

# What measures one operand, given its spec and key.
_Measure = Callable[[TensorSpec | None, RoleKeys | None, str], OperandSums]


def operand_sums(
    call: Call, recipe: Recipe, tensors: Tensors, key: Any = None
) -> dict[str, OperandSums]:
    """The sums of each operand, by its role ("fprop.x", ...).

    The key is that of the layer, whose bits are drawn as for a single call.
    With quantized residuals, operands of the backward pass that the recipe does not quantize again
    are those of fprop.

    Raises:
        ValueError: for a recipe that quantizes a quantized residual again.
    """
    measures = (
        _dot(call, recipe, tensors)
        if call.op is fp4nnx.DotGeneral
        else _conv(call, recipe, tensors)
    )
    keys = role_keys(key)
    sums: dict[str, OperandSums] = {}
    for role, spec in zip(ROLES, recipe.operands, strict=True):
        fprop = f"fprop.{role[-1]}"
        is_residual = recipe.residuals == "quantized" and role in ("dgrad.w", "wgrad.x")
        if is_residual and recipe.operands[ROLES.index(fprop)] is not None:
            if spec is not None:
                raise ValueError(
                    f"recipe {recipe.name!r} quantizes {role} twice, from quantized residuals; "
                    "a diagnosis takes recipes that do so once."
                )
            sums[role] = sums[fprop]
        else:
            sums[role] = measures[role](spec, keys, role)
    return sums


def _whole(x: Array, axes: BlockAxes) -> _Measure:
    return lambda spec, keys, role: tally(x, spec, axes, gemm.seed(keys, spec, role))


def _dot(call: Call, recipe: Recipe, tensors: Tensors) -> dict[str, _Measure]:
    (dimension_numbers,) = call.arguments
    plan = DotPlan.make(
        tensors.x.shape, tensors.w.shape, dimension_numbers, recipe, None, jax.typeof(tensors.g)
    )
    x, w, g = plan.x(tensors.x), plan.w(tensors.w), plan.g(tensors.g)
    return {
        "fprop.x": _whole(x, X_FPROP),
        "fprop.w": _whole(w, W_FPROP),
        "dgrad.g": _whole(g, G_DGRAD),
        "dgrad.w": _whole(w, W_DGRAD),
        "wgrad.x": _whole(x, X_WGRAD),
        "wgrad.g": _whole(g, G_WGRAD),
    }


def _conv(call: Call, recipe: Recipe, tensors: Tensors) -> dict[str, _Measure]:
    geometry = _geometry(call, tensors)
    x, g = geometry.split(geometry.x(tensors.x)), geometry.split(geometry.y(tensors.g))
    w = geometry.w(tensors.w)
    return {
        "fprop.x": _whole(x, conv.CHANNELS),
        "fprop.w": _whole(w, conv.KERNEL_IN),
        "dgrad.g": _whole(g, conv.CHANNELS),
        "dgrad.w": _whole(w, conv.KERNEL_OUT),
        "wgrad.x": _positions(x) if geometry.mirrored else _taps(geometry, x),
        "wgrad.g": _taps(geometry, g) if geometry.mirrored else _positions(g),
    }


def _positions(split: Array) -> _Measure:
    """The side of wgrad that lies on the window's grid."""
    return _whole(positions(split), conv.POSITIONS)


def _taps(geometry: Geometry, split: Array) -> _Measure:
    """The other side: every tap sees a view of the image, which is cut into blocks anew."""
    image, window = geometry.dilate(merge_groups(split)), geometry.window

    def part(view: Array) -> Array:
        return positions(geometry.split(view))

    def measure(spec: TensorSpec | None, keys: RoleKeys | None, role: str) -> OperandSums:
        amax = None
        seeds = gemm.tap_seeds(keys, spec, role, window.number_of_taps)
        if spec is not None and spec.has_tensor_scale:
            per_tap = map_taps(lambda view, t: tensor_amax(part(view), spec, (0,)), image, window)
            amax = largest(per_tap)

        def one_tap(view: Array, t: Array, amax: Any, seeds: Any) -> Array:
            seed = None if seeds is None else Seed(seeds.words[t])
            sums = tally(part(view), spec, conv.POSITIONS, seed, amax)
            return jnp.stack(jax.tree.leaves(sums))

        return OperandSums(*map_taps(one_tap, image, window, amax, seeds).sum(0))

    return measure


def _geometry(call: Call, tensors: Tensors) -> Geometry:
    """What the library makes of a convolution's arguments."""
    options = dict(call.options)
    mirrored = call.op is fp4nnx.ConvTransposeOp
    if options.pop("transpose_kernel", False):
        raise ValueError("a diagnosis takes transposed convolutions without transpose_kernel.")

    def product(x: Array, w: Array) -> Array:
        lax_function = lax.conv_transpose if mirrored else lax.conv_general_dilated
        return lax_function(x, w, *call.arguments, **options)

    types = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in tensors[:2])
    return resolve(product, *types, mirrored=mirrored).geometry
