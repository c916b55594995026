"""mark: a copy of a packed model, in which all that a file writes in its own way is marked."""

from typing import Any

from flax import nnx
from jax import lax

from fp4jax.deploy.onnx.marked_attention import MarkedAttention
from fp4jax.deploy.onnx.marking import MARKED, Plain
from fp4jax.nnx.attention_slots import SLOT, attention_slots
from fp4jax.nnx.operations import EinsumOp, Op
from fp4jax.nnx.packed_operations import PackedOp
from fp4jax.nnx.slots import Layer, layers


def mark(model: nnx.Module, *, plain: bool = True) -> nnx.Module:
    """The copy to be traced; without ``plain`` only what is quantized is changed.

    Raises:
        ValueError: products that are quantized and have no form: of a layer that is not packed, of
            a stack of layers, or of an attention whose recipe has none.

    Example:
        >>> type(mark(nnx.Linear(3, 2, rngs=nnx.Rngs(0))).dot_general).__name__
        'Plain'
    """
    model = nnx.clone(model)
    for layer in list(layers(model)):
        operation = _operation(layer)
        if plain or not isinstance(operation, Plain):
            layer.inject(operation)
    for slot in list(attention_slots(model)):
        operation = slot.operation
        if operation is not None and operation.recipe.quantizes:
            setattr(slot.module, SLOT, nnx.data(MarkedAttention(slot.path, operation)))
    return model


def _operation(layer: Layer) -> nnx.Module:
    """What takes the place of a layer's operation."""
    operation = layer.operation
    if isinstance(operation, PackedOp):
        # One layer's is a scalar.
        if stack := layer.module.kernel.amax.get_value().shape:
            count = " x ".join(map(str, stack))
            raise ValueError(
                f"layer {layer.path!r} is a stack of {count} layers (nnx.vmap, nnx.scan), of which "
                "an export has no form: give each layer a module of its own."
            )
        return MARKED[type(operation)](layer.path, operation)
    if operation is not None and any(_fprop(operation)):
        raise ValueError(_refusal(layer, operation))
    return Plain(layer.slot.default or lax.dot_general)


def _refusal(layer: Layer, operation: Op) -> str:
    """Why a layer that is quantized and not packed cannot be written, and what to do."""
    said = f"layer {layer.path!r} has the recipe {operation.recipe.name!r} and is not packed"
    if isinstance(operation, EinsumOp):
        return (
            f"{said}, for it is an nnx.Einsum, of which an export has no form: keep it in high "
            f"precision (keep={layer.path!r}), or use nnx.LinearGeneral."
        )
    return (
        f"{said}: an export has 4-bit weights or none. Quantize its weights, or keep the layer in "
        "high precision."
    )


def _fprop(operation: Op) -> tuple[Any, ...]:
    """How a layer's operation quantizes its operands in the forward pass."""
    return operation.recipe.fprop
