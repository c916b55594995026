"""The products of a model as rules see them, found by tracing it once."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from flax import nnx

from fp4jax.deploy.runtimes.rule import Case, Kind
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.slots import layers
from fp4jax.nnx.traced import Product, products_of

_KINDS: dict[str, Kind] = {
    "dot_general": "linear",
    "conv_general_dilated": "convolution",
    "conv_transpose": "transposed convolution",
    "einsum_op": "einsum",
}


@dataclasses.dataclass(frozen=True)
class Found:
    """A product of a model.

    Attributes:
        product: as it was traced.
        case: what rules see of it.
        layer: whether a layer's slot computes it.
    """

    product: Product
    case: Case
    layer: bool


def cases_of(
    model: nnx.Module, *example_inputs: Any, calibrated: bool = False, fp8: bool = False
) -> Iterator[Found]:
    """The products of ``model(*example_inputs)``.

    Args:
        model: with its recipes applied, packed or not; shapes will do.
        example_inputs: arrays or ``jax.ShapeDtypeStruct``.
        calibrated: take it that x has static amaxes.
        fp8: see :class:`Case`.

    Raises:
        ValueError: no example inputs, or no NNX model.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.nnx import apply_recipe
        >>> conv = apply_recipe(nnx.Conv(16, 4, (2, 2), strides=2, rngs=nnx.Rngs(0)), "full")
        >>> (found,) = cases_of(conv, jnp.ones((1, 8, 8, 16)))
        >>> found.case.kind, found.case.matrix, found.case.channels, found.case.calibrated
        ('convolution', True, 16, False)
    """
    if not example_inputs:
        raise ValueError(
            "there are no example inputs, and which products a model runs depends on their shape; "
            "give what it is called with, such as jax.ShapeDtypeStruct((1, 256, 256, 3), "
            "jnp.float32)."
        )
    slots = {layer.path: layer.slot.name for layer in layers(model)}
    attentions = {slot.module_path for slot in attention_slots(model)}
    for product in products_of(model, example_inputs):
        own = slots.get(product.path) == product.kind
        kind: Kind = _KINDS[product.kind] if own else "other product"
        if not own and product.path in attentions:
            kind = "attention"
        x, w = product.specs
        case = Case(
            kind=kind,
            x=x,
            w=w,
            calibrated=calibrated or (x is not None and x.given),
            fp8=fp8,
            **(_of_layer(product, kind) if own else {}),
        )
        yield Found(product, case, own)


def _of_layer(product: Product, kind: Kind) -> dict[str, Any]:
    """What the shapes of a layer's product say."""
    geometry = product.geometry
    if geometry is not None:
        window, channel = geometry.window, geometry.layout.rhs_spec[1]
        return {
            "matrix": geometry.is_matrix_product,
            "spatial_dims": window.ndim,
            "groups": window.groups,
            "channels": product.rhs[channel],
        }
    if kind != "linear" or not product.multiply_adds:
        return {}
    # (b m k) (b k n) / (b m k n); with batch dimensions their number is in it.
    sizes = math.prod(product.lhs) * math.prod(product.rhs) * product.times
    batched = sizes // product.multiply_adds != product.rhs[0] and len(product.rhs) == 2
    return {"matrix": not batched, "channels": sizes // product.multiply_adds}
