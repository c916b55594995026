"""pack(model): quantized layers hold codes and scales instead of float kernels."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.number_format import NVFP4
from fp4jax.core.typing import Array, DTypeLike
from fp4jax.nnx.amax_places import AmaxPlace, amax_places, places_of
from fp4jax.nnx.amax_variables import CalibratedAmax
from fp4jax.nnx.announce import announce
from fp4jax.nnx.attention_slots import AttentionSlot, attention_slots
from fp4jax.nnx.keys import Model
from fp4jax.nnx.operations import ConvGeneralDilated, ConvTransposeOp, DotGeneral, Op
from fp4jax.nnx.packed_operations import (
    PackedConv,
    PackedConvTranspose,
    PackedDotGeneral,
    PackedOp,
)
from fp4jax.nnx.slots import Layer, layers
from fp4jax.ops.attention_recipe import AttentionRecipe
from fp4jax.ops.recipe import Recipe
from fp4jax.packed.kernel import PackedKernel, Promote
from fp4jax.packed.layout import Layout
from fp4jax.packed.rest import narrow
from fp4jax.packed.sizes import size

#: What apply_recipe injects -> what packing puts in its place.
PACKED: dict[type[Op], type[PackedOp]] = {
    DotGeneral: PackedDotGeneral,
    ConvGeneralDilated: PackedConv,
    ConvTransposeOp: PackedConvTranspose,
}


def pack(model: Model, *, rest_dtype: DTypeLike | None = None, verbose: bool = False) -> Model:
    """A trained model for inference, whose quantized layers really take 4.5 bits per weight.

    Layers whose recipe quantizes the weights of the forward pass hold their codes and block scales
    in place of the float kernel; x is quantized as the recipe's ``fprop`` says, or not, with the
    static amax that it has (of :func:`fp4jax.nnx.calibrate`, or as it was trained). All other
    layers, and what is not a layer, stay as they are; ``nnx.Einsum`` quantizes its float kernel in
    every call, and attention q, k, v and P. A layer returns what it returned in
    evaluation mode, up to the order of float32 sums. (A last bit may, rarely, round an activation
    of a later layer to the next code.)

    Args:
        model: with a recipe applied (:func:`fp4jax.nnx.apply_recipe`); it is not changed. Shapes
            instead of arrays will do (``nnx.eval_shape``).
        rest_dtype: ``jnp.bfloat16`` stores the parameters that are not packed in that dtype; the
            model still computes with them in float32. Norms and statistics stay in float32.
        verbose: print one line about the bytes, instead of logging it (logger "fp4jax", level
            INFO); :func:`fp4jax.packed.size` has the figures.

    Returns:
        A new model in evaluation mode. Rounding keys are gone. It cannot be trained: its packed
        weights are no ``nnx.Param``, and a gradient with respect to them is a ValueError.

    Raises:
        ValueError: nothing to pack, a packed model, a recipe whose forward pass rounds
            stochastically, or one whose amax is neither "tensor" nor, of x, static and known.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fp4jax.nnx import apply_recipe, pack
        >>> layer = nnx.Linear(64, 16, rngs=nnx.Rngs(0))
        >>> packed = pack(apply_recipe(layer, "2d+rht+sr"), verbose=True)
        1 layers packed: 1,024 weights in 520 bytes (4.06 bits each); 16 other numbers in 64 bytes
        >>> packed(jnp.ones((2, 64))).shape
        (2, 16)
    """
    _check(model)
    model = nnx.clone(model)
    for layer, recipe in quantized_layers(model):
        pack_layer(layer, recipe)
    for slot in attention_slots(model):
        if slot.operation is not None:
            pack_attention(slot, forward_attention(slot.operation.recipe))
    if rest_dtype is not None:
        narrow(model, rest_dtype)
    model.eval()
    announce(size(model), verbose)
    return model


def quantized_layers(model: nnx.Module) -> Iterator[tuple[Layer, Recipe]]:
    """The layers that hold an operation, and the forward part of its recipe."""
    for layer in layers(model):
        if layer.operation is not None:
            yield layer, forward_part(layer.operation.recipe)


def forward_part(recipe: Recipe) -> Recipe:
    """The recipe without its backward pass, in which a learned amax is a static one."""
    x, w = recipe.fprop
    if x is not None and x.amax == "learned":
        x = dataclasses.replace(x, amax="static")
    return Recipe(name=recipe.name, fprop=(x, w))


def forward_attention(recipe: AttentionRecipe) -> AttentionRecipe:
    """An attention recipe without its backward pass."""
    return AttentionRecipe(name=recipe.name, qk=forward_part(recipe.qk), pv=forward_part(recipe.pv))


def pack_attention(slot: AttentionSlot, recipe: AttentionRecipe) -> None:
    """Leaves the forward pass of an attention, with its amaxes; of a template, places for them."""
    held = slot.operation
    slot.inject(recipe)
    assert slot.operation is not None
    for place in places_of(slot.operation):
        if place.spec.amax == "static":
            old = None if held is None else held.amax_of(place.operand)
            amax = jnp.zeros(place.stack) if old is None else old.get_value()
            place.set(recipe, CalibratedAmax(amax), None)


def pack_layer(layer: Layer, recipe: Recipe) -> None:
    """Packs one layer, in place; one whose weights are not quantized only loses its key."""
    amax, stack = _static_amax(layer, recipe), layer.stack
    if recipe.fprop[1] is None or layer.slot.op not in PACKED:
        operation = layer.slot.op(recipe, path="", stack=stack)
        operation.amax = nnx.data(None if amax is None else CalibratedAmax(amax))
        layer.inject(operation)
        return
    module = layer.module
    layout, kernel = Layout.of(module, layer.slot.name), module.kernel.get_raw_value()
    mask = getattr(module, "mask", None)
    # The layer casts its kernel before it quantizes it.
    dtype = module.dtype or kernel.dtype
    values = layout.pack(kernel, mask, recipe.fprop[1], dtype)
    module.kernel = nnx.data(PackedKernel(values, layout.shape(kernel), dtype))
    module.promote_dtype = Promote(module.promote_dtype)
    if mask is not None:
        # Its zeros are among the codes.
        module.mask = None
    layer.inject(PACKED[layer.slot.op](recipe, amax, stack))


def _static_amax(layer: Layer, recipe: Recipe) -> Array | None:
    """The amax of a layer's x; of a template, whose layer has none, a place for it."""
    x = recipe.fprop[0]
    if x is None or x.amax != "static":
        return None
    held = None if layer.operation is None else layer.operation.amax
    # A sign that a step of the optimizer may have left does not count.
    return jnp.zeros(layer.stack) if held is None else jnp.abs(held.get_value())


def _check(model: Any) -> None:
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model is a {type(model).__name__}; pack takes a flax.nnx.Module.")
    if any(isinstance(module, PackedOp) for _, module in nnx.iter_modules(model)):
        raise ValueError(
            f"{type(model).__name__} is packed already; pack the model that was trained."
        )
    found = list(quantized_layers(model))
    held: list[tuple[str, Recipe, bool]] = [
        (f"layer {layer.path!r}", recipe, False) for layer, recipe in found
    ]
    for slot in attention_slots(model):
        if slot.operation is not None:
            own = forward_attention(slot.operation.recipe)
            held += [(repr(slot.path), product, True) for product in (own.qk, own.pv)]
    for what, recipe, _ in held:
        if recipe.stochastic:
            raise ValueError(
                f"{what} has the recipe {recipe.name!r}, whose forward pass rounds "
                "stochastically: a packed model has no random keys. Apply a recipe with "
                "rounding='nearest' in fprop first, for example dataclasses.replace(recipe, fprop="
                "get_recipe('full').fprop)."
            )
    for what, recipe, attends in held:
        for i, spec in enumerate(recipe.fprop):
            if spec is not None and spec.format != NVFP4:
                raise ValueError(
                    f"{what} has the recipe {recipe.name!r} in "
                    f"{spec.format.name}; packed layers and files are nvfp4's: apply a recipe "
                    "whose fprop is in nvfp4, fp4jax.with_format(recipe, 'nvfp4')."
                )
            if (attends or i == 0) and spec is not None and spec.amax == "static":
                continue
            if spec is not None and spec.amax != "tensor":
                raise ValueError(
                    f"{what} has the recipe {recipe.name!r} with amax={spec.amax!r}; "
                    "packed layers have one tensor scale, that of the operand: apply a recipe "
                    "whose fprop has amax='tensor' first."
                )
    for place in amax_places(model):
        if place.spec.given:
            _check_amax(place)
    _check_weights(model, found)


def _check_amax(place: AmaxPlace) -> None:
    """ValueError if a static amax is not known."""
    value = None if place.amax is None else place.amax.get_value()
    shapes = isinstance(value, jax.ShapeDtypeStruct)
    if value is None or not (shapes or bool((value != 0).all())):
        raise ValueError(
            f"layer {place.path!r} has amax='static' for {place.operand}, and no amax: calibrate "
            "the model on some batches first, fp4jax.nnx.calibrate(model, batches)."
        )


def _check_weights(model: nnx.Module, found: list[tuple[Layer, Recipe]]) -> None:
    if not any(r.fprop[1] is not None and layer.slot.op in PACKED for layer, r in found):
        raise ValueError(
            f"no layer of {type(model).__name__} has quantized weights in its forward pass; "
            "apply a recipe first: fp4jax.nnx.apply_recipe(model, '2d+rht+sr')."
        )
