"""report(model): which layers are quantized, by which recipe, and how many parameters that is."""

import dataclasses
import math
from typing import Any

import jax
from flax import nnx

from fp4jax.nnx.slots import layers, without_slot
from fp4jax.nnx.used import used_layers

_HIGH = "high precision"


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer with a kernel.

    Attributes:
        path: dotted; "(model)" for a model that is one layer.
        kind: Flax's class of it.
        kernel_shape: of its parameter.
        recipe: name of the recipe that it holds; "" for none, or one that quantizes nothing.
        used: whether the layer ran its operation on the example inputs; None without such.
        reason: why the layer can hold no recipe, or "".
    """

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    recipe: str = ""
    used: bool | None = None
    reason: str = ""

    @property
    def precision(self) -> str:
        """Name of the recipe, or "high precision" if there is none or it is known to be unused."""
        return self.recipe if self.recipe and self.used is not False else _HIGH

    @property
    def parameters(self) -> int:
        """Number of weights of the kernel."""
        return math.prod(self.kernel_shape)

    @property
    def remark(self) -> str:
        """Why the precision is high, if that is not for want of a recipe."""
        return f"{self.recipe} not used" if self.recipe and self.used is False else self.reason


@dataclasses.dataclass(frozen=True)
class Report:
    """Which layers of a model are quantized; ``str(report)`` is a table.

    Attributes:
        layers: all with a kernel.
        parameters: of the whole model, norms and biases included.
        traced: whether example inputs told which layers use their recipe.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    traced: bool = False

    @property
    def quantized(self) -> tuple[LayerReport, ...]:
        """The layers that hold a recipe and, as far as is known, use it."""
        return tuple(layer for layer in self.layers if layer.precision != _HIGH)

    @property
    def summary(self) -> str:
        """One line: how many layers, what share of the parameters."""
        share = sum(layer.parameters for layer in self.quantized) / max(self.parameters, 1)
        names = ", ".join(sorted({layer.precision for layer in self.quantized})) or "baseline"
        counts = f"{len(self.quantized)} of {len(self.layers)} layers"
        known = self.traced or not self.quantized
        line = (
            f"{names}: {f'{counts} quantized' if known else f'set on {counts}'}, "
            f"{share:.1%} of {self.parameters:,} parameters"
        )
        kept = [
            f"{layer.path} ({layer.remark})" if layer.remark else layer.path
            for layer in self.layers
            if layer.precision == _HIGH
        ]
        if kept:
            line = f"{line}; {_HIGH}: {', '.join(kept)}"
        return line if known else f"{line} (report(model, x) tells which use it)"

    def __str__(self) -> str:
        rows = [("layer", "kind", "kernel", "precision" if self.traced else "recipe")]
        for layer in self.layers:
            remark = f" ({layer.remark})" if layer.remark else ""
            shape = "x".join(map(str, layer.kernel_shape))
            rows.append((layer.path, layer.kind, shape, layer.precision + remark))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return f"{table}\n{self.summary}"


def report(model: nnx.Module, *example_inputs: Any) -> Report:
    """Which layers of a model are quantized, by which recipe, and how many parameters that is.

    Layers that compute with a kernel but have no slot for a recipe, ``nnx.Einsum``, are listed as
    high precision ("no slot").

    Args:
        model: any NNX model, with weights or as ``nnx.eval_shape`` makes it.
        example_inputs: what the model is called with, arrays or ``jax.ShapeDtypeStruct``; anything
            else is passed on as it is. With them the model is traced once, without computing, and
            a layer that never ran its operation is shown as high precision. Without them the
            report says which recipe each layer holds, not whether it uses it.

    Returns:
        The account; print it for a table, or its ``summary`` for one line.

    Raises:
        ValueError: for anything but an NNX model.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.nnx import apply_recipe
        >>> layer = apply_recipe(nnx.Linear(16, 4, rngs=nnx.Rngs(0)), "full")
        >>> print(report(layer, jnp.ones((2, 16))))
        layer    kind    kernel  precision
        (model)  Linear  16x4    full
        full: 1 of 1 layers quantized, 94.1% of 68 parameters
    """
    used = used_layers(model, example_inputs) if example_inputs else None
    rows: dict[str, LayerReport] = {}
    for layer in layers(model):
        recipe = layer.operation.recipe if layer.operation is not None else None
        own = layer.held is not None and layer.operation is None
        rows[layer.path] = LayerReport(
            path=layer.path or "(model)",
            kind=layer.kind.__name__,
            kernel_shape=tuple(layer.module.kernel.get_value().shape),
            recipe=recipe.name if recipe is not None and recipe.quantizes else "",
            used=None if used is None else layer.path in used,
            reason=f"own {layer.slot.name}" if own else "",
        )
    for path, module in without_slot(model):
        shape = tuple(module.kernel.get_value().shape)
        rows[path] = LayerReport(path or "(model)", type(module).__name__, shape, reason="no slot")
    order = [".".join(map(str, path)) for path, _ in nnx.iter_modules(model)]
    parameters = sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    in_order = tuple(rows[path] for path in order if path in rows)
    return Report(in_order, parameters, traced=used is not None)
