"""as_on: a model that computes what a target computes, by fake quantization."""

import dataclasses
import logging
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fp4jax.core.number_format import FP8
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array
from fp4jax.deploy.runtimes.mode import Mode
from fp4jax.deploy.runtimes.rule import Half, Runtime, get_runtime
from fp4jax.deploy.runtimes.table import TargetTable, target_table
from fp4jax.nnx.keys import Model
from fp4jax.nnx.operations import EinsumOp, Op
from fp4jax.nnx.packed_files import is_packed
from fp4jax.nnx.slots import Layer, layers
from fp4jax.ops.recipe import Recipe, get_recipe
from fp4jax.packed.layout import Layout

_LOG = logging.getLogger(__name__)


def as_on(
    model: Model,
    target: str | Runtime,
    *example_inputs: Any,
    fp8: bool = False,
    half: Half | None = None,
) -> tuple[Model, TargetTable]:
    """A model whose layers compute what a target computes for them, and the table that says what.

    * FP4 products, and products in float32 or 16 bits of operands on the grid of the recipe: the
      forward pass of the recipe as it is (such values are exact in bfloat16).
    * FP8 products of layers that were trained in FP4: x and w in E4M3, with the static scale that
      x has.
    * 16-bit products with weights on the FP4 grid: x and the decoded w are rounded to 16 bits,
      products are summed in float32, and sums rounded to 16 bits, as in the file "onnx-trt".
    * What is not quantized stays as it is.

    Args:
        model: with its recipes applied; not packed. It is not changed.
        target: name of a runtime, or one's own.
        example_inputs: what the model is called with.
        fp8: see :func:`target_table`.
        half: the 16-bit type; default: the runtime's.

    Returns:
        A new model in evaluation mode, and the table.

    Raises:
        ValueError: an unknown target, a packed model, no example inputs, or a layer that runs in
            several ways.

    Example:
        >>> from fp4jax.nnx import apply_recipe
        >>> model = apply_recipe(nnx.Conv(16, 4, (3, 3), rngs=nnx.Rngs(0)), "2d+rht+sr")
        >>> there, table = as_on(model, "tensorrt", jnp.ones((1, 8, 8, 16)))
        >>> table.summary
        'tensorrt: of 36,864 multiply-adds 100.0% 16 bits with FP4 weights'
        >>> there(jnp.ones((1, 8, 8, 16))).shape
        (1, 8, 8, 4)
    """
    runtime = get_runtime(target)
    if is_packed(model):
        raise ValueError(
            "the model is packed, and has no float kernels to quantize in another way; give the "
            "model that was packed."
        )
    runtime = runtime if half is None else dataclasses.replace(runtime, half=half)
    table = target_table(model, runtime, *example_inputs, fp8=fp8)
    modes, copy = table.modes(), nnx.clone(model)
    copy.eval()
    for layer in layers(copy):
        mode = modes.get(layer.path or "(model)")
        if mode is not None and layer.operation is not None:
            _change(layer, layer.operation, mode, jnp.dtype(runtime.half))
    return copy, table


class Rounded(nnx.Module):
    """An operation whose operands are rounded to a 16-bit type, and its float32 sums then."""

    def __init__(self, operation: Op, dtype: Any):
        self.operation = nnx.data(operation)
        self.dtype = jnp.dtype(dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        lhs, rhs, rest = self.operation.operands(args)
        lhs, rhs = map(self._rounded, (lhs, rhs))
        return self._rounded(self.operation(*self.operation.arguments(lhs, rhs, rest), **kwargs))

    def _rounded(self, x: Array) -> Array:
        return x.astype(self.dtype).astype(x.dtype)


def _change(layer: Layer, operation: Op, mode: Mode, half: Any) -> None:
    """Puts an operation into a layer that computes as the mode says."""
    if mode.operands == "recipe":
        return
    if mode.operands == "fp8":
        _to_fp8(layer, operation)
        return
    w = operation.recipe.fprop[1]
    if mode.operands == "weights" and w is not None:
        _decode_weights(layer, w)
    plain = layer.slot.op(get_recipe("baseline"), layer.path, layer.stack)
    layer.inject(Rounded(plain, half) if mode.units == "16 bits" else plain)


def _decode_weights(layer: Layer, spec: TensorSpec) -> None:
    """The kernel of a layer becomes the values of its codes."""
    if layer.slot.op is EinsumOp:
        raise ValueError(
            f"{layer.path or '(model)'} is an nnx.Einsum, whose weights are never stored as codes; "
            "let the rules of the target leave it in float32."
        )
    module = layer.module
    layout, kernel = Layout.of(module, layer.slot.name), module.kernel.get_value()
    mask = getattr(module, "mask", None)
    module.kernel.set_value(layout.on_grid(kernel, mask, spec, module.dtype or kernel.dtype))


def _to_fp8(layer: Layer, operation: Op) -> None:
    """Both operands of the forward pass in E4M3, by the static amax that x has."""
    x, w = (None if spec is None else _in_fp8(spec) for spec in operation.recipe.fprop)
    recipe = Recipe(name=f"fp8_{operation.recipe.name}", fprop=(x, w))
    changed = layer.slot.op(recipe, layer.path, layer.stack)
    changed.amax, changed.watch = nnx.data(operation.amax), nnx.data(operation.watch)
    layer.inject(changed)


def _in_fp8(spec: TensorSpec) -> TensorSpec:
    return dataclasses.replace(spec, scaling="amax").in_format(FP8)
