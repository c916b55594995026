"""Which of Flax's layers can be quantized, and the slot where each takes its operation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.nnx.keys import check_model, dotted
from fp4jax.nnx.operations import ConvGeneralDilated, ConvTransposeOp, DotGeneral, EinsumOp, Op
from fp4jax.nnx.transposed import ConvTranspose
from fp4jax.packed.kernel import DecodedKernel, PackedKernel


class Slot(NamedTuple):
    """An attribute of a layer that holds the function of its product."""

    name: str
    # what apply_recipe puts there
    op: type[Op]
    # what Flax puts there
    default: Any


#: The layers that can be quantized; subclasses have their parents' slots.
SLOTS: dict[type[nnx.Module], Slot] = {
    nnx.Linear: Slot("dot_general", DotGeneral, lax.dot_general),
    nnx.LinearGeneral: Slot("dot_general", DotGeneral, None),
    nnx.Einsum: Slot("einsum_op", EinsumOp, jnp.einsum),
    nnx.Conv: Slot("conv_general_dilated", ConvGeneralDilated, lax.conv_general_dilated),
    nnx.ConvTranspose: Slot("conv_transpose", ConvTransposeOp, lax.conv_transpose),
}


class Layer(NamedTuple):
    """A layer that can be quantized, in its model."""

    # dotted
    path: str
    module: Any
    # Flax's class of it
    kind: type[nnx.Module]

    @property
    def slot(self) -> Slot:
        return SLOTS[self.kind]

    @property
    def held(self) -> Any:
        """What is in the slot; None for Flax's own default."""
        held = getattr(self.module, self.slot.name, None)
        held = None if held is self.slot.default else held
        return held or getattr(self.module, "dot_general_cls", None)

    @property
    def operation(self) -> Op | None:
        """What is in the slot, if it is ours."""
        return self.held if isinstance(self.held, Op) else None

    @property
    def stack(self) -> tuple[int, ...]:
        """The leading dimensions of a stack of layers, as nnx.vmap makes and nnx.scan runs it."""
        layer = self.module
        if isinstance(layer.kernel, (PackedKernel, DecodedKernel)):
            return layer.kernel.stack
        if self.kind is nnx.Einsum:
            rank = len(layer.kernel_shape)
        elif self.kind is nnx.LinearGeneral:
            rank = len(layer.batch_axis) + len(layer.in_features) + len(layer.out_features)
        else:
            rank = 2 if self.kind is nnx.Linear else len(layer.kernel_size) + 2
        shape = layer.kernel.get_value().shape
        return tuple(shape[: len(shape) - rank])

    def inject(self, operation: nnx.Module) -> None:
        """Puts an operation into the slot."""
        if type(self.module) is nnx.ConvTranspose:
            _turn_into(ConvTranspose, self.module)
        setattr(self.module, self.slot.name, nnx.data(operation))

    def empty(self) -> None:
        """Puts back what Flax has in the slot."""
        if self.kind is not nnx.ConvTranspose:
            setattr(self.module, self.slot.name, nnx.static(self.slot.default))
            return
        # There it is the class that has the slot.
        delattr(self.module, self.slot.name)
        if type(self.module) is ConvTranspose:
            _turn_into(nnx.ConvTranspose, self.module)


def _turn_into(kind: type[nnx.Module], module: nnx.Module) -> None:
    # Past nnx.Module's own setattr, which would take the class for a part of the module.
    object.__setattr__(module, "__class__", kind)


def layers(model: nnx.Module) -> Iterator[Layer]:
    """All layers of a model that can be quantized.

    Example:
        >>> mlp = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.relu)
        >>> [(layer.path, layer.slot.name) for layer in layers(mlp)]
        [('layers.0', 'dot_general')]
    """
    check_model(model)
    # A list: callers change the modules.
    for path, module in list(nnx.iter_modules(model)):
        kind = next((kind for kind in SLOTS if isinstance(module, kind)), None)
        if kind is not None:
            yield Layer(dotted(path), module, kind)


def without_slot(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    """(dotted path, module) of what has a kernel but no slot for its product."""
    check_model(model)
    for path, module in nnx.iter_modules(model):
        is_layer = isinstance(module, tuple(SLOTS))
        if not is_layer and isinstance(getattr(module, "kernel", None), nnx.Param):
            yield dotted(path), module
