"""report(model, x): which products of a model run in FP4, by which recipe, and how many."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.core import Tracer

from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.operations import Op
from fp4jax.nnx.slots import Layer, layers, without_slot
from fp4jax.nnx.traced import Product, formats_of, products_of
from fp4jax.packed.kernel import DecodedKernel, PackedKernel
from fp4jax.packed.sizes import size

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
        format: of x and w in its recipe's forward pass, "nvfp4" or "mxfp8 * mxfp4"; "" for none.
        products: those of its slot and of its own ``__call__``, if example inputs were given.
        amax: the static or learned amax of its x, if it has one; of a stack of layers the largest.
    """

    path: str
    kind: str
    kernel_shape: tuple[int, ...]
    recipe: str = ""
    used: bool | None = None
    reason: str = ""
    products: tuple[Product, ...] = ()
    amax: float | None = None
    format: str = ""

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
        """Why the precision is high, if that is not for want of a recipe; the amax of x."""
        if self.recipe and self.used is False:
            return f"{self.recipe} not used"
        return self.reason or ("" if self.amax is None else f"amax {self.amax:.3g}")


@dataclasses.dataclass(frozen=True)
class Report:
    """Which layers of a model are quantized; ``str(report)`` is a table.

    Attributes:
        layers: all with a kernel.
        parameters: of the whole model, norms and biases included.
        traced: whether example inputs told which layers use their recipe.
        products: all of the forward pass on the example inputs, those of layers and others: inside
            attention, of kernels that jnp or lax multiply directly.
        attentions: name of the attention recipe by path, of those that hold one.
    """

    layers: tuple[LayerReport, ...]
    parameters: int
    traced: bool = False
    products: tuple[Product, ...] = ()
    attentions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass on the example inputs."""
        return sum(product.multiply_adds for product in self.products)

    @property
    def fp4_multiply_adds(self) -> int:
        """Of those whose both operands are in FP4."""
        return sum(product.multiply_adds for product in self.products if product.fp4)

    @property
    def by_format(self) -> dict[str, int]:
        """Multiply-adds whose both operands are quantized, by format; of nvfp4 as "FP4"."""
        found: dict[str, int] = {}
        for product in self.products:
            if None not in product.specs:
                name = _format(product.format)
                found[name] = found.get(name, 0) + product.multiply_adds
        return found or {"FP4": 0}

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
        for name in dict.fromkeys(self.attentions.values()):
            line = f"{line}, {name} in {list(self.attentions.values()).count(name)} attentions"
        if self.traced:
            total = f"of {self.multiply_adds:,} multiply-adds "
            for name, amount in self.by_format.items():
                line = f"{line}, {amount / max(self.multiply_adds, 1):.1%} {total}in {name}"
                total = ""
        kept = [
            f"{layer.path} ({layer.remark})" if layer.remark else layer.path
            for layer in self.layers
            if layer.precision == _HIGH
        ]
        if kept:
            line = f"{line}; {_HIGH}: {', '.join(kept)}"
        return line if known else f"{line} (report(model, x) tells which use it)"

    def __str__(self) -> str:
        heads = ("precision", "multiply-adds", "bytes") if self.traced else ("recipe",)
        rows = [("layer", "kind", "kernel", *heads)]
        for layer in self.layers:
            remark = f" ({layer.remark})" if layer.remark else ""
            # A name such as mxfp4_full says it already.
            told = layer.format in ("", "nvfp4") or layer.recipe.startswith(f"{layer.format}_")
            if not told and layer.precision != _HIGH:
                remark = f" [{layer.format}]{remark}"
            first = (layer.path, layer.kind, _shown(layer.kernel_shape), layer.precision + remark)
            rows.append(first + (_amounts(layer.products) if self.traced else ()))
        within = {product for layer in self.layers for product in layer.products}
        for product in self.products:
            if product not in within:
                shapes = f"{_shown(product.lhs)} * {_shown(product.rhs)}"
                formats = _format(product.format)
                precision = _HIGH if None in product.specs else product.recipe or formats
                path = product.path or "(model)"
                rows.append((path, product.kind, shapes, precision, *_amounts([product])))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
        return f"{table}\n{self.summary}"


def _format(name: str) -> str:
    return "FP4" if name == "nvfp4" else name


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _amounts(products: Sequence[Product]) -> tuple[str, str]:
    """Multiply-adds and bytes, as the table has them."""
    macs, size = (sum(getattr(p, name) for p in products) for name in ("multiply_adds", "bytes"))
    return f"{macs:,}", f"{size:,}"


def _amax(operation: Op) -> float | None:
    """The amax of x that an operation holds; None for none, or shapes only."""
    value: Any = None if operation.amax is None else operation.amax.get_value()
    # Neither those of nnx.eval_shape nor those of a trace have a value to show.
    known = isinstance(value, jax.Array) and not isinstance(value, Tracer)
    return float(value.max()) if known else None


def _kernel_shape(layer: Layer) -> tuple[int, ...]:
    """Of all layers of a stack; a packed kernel's value is one layer's."""
    kernel = layer.module.kernel
    stack = layer.stack if isinstance(kernel, (PackedKernel, DecodedKernel)) else ()
    return (*stack, *kernel.get_value().shape)


def report(model: nnx.Module, *example_inputs: Any) -> Report:
    """Which products of a model run in FP4, by which recipe; multiply-adds, bytes, parameters.

    ``report(model, x).fp4_multiply_adds`` is what the model really does in FP4: it counts the
    products of the traced program, those of attention, and of kernels that are multiplied without
    their layer too. They are the forward pass's; a product counts as FP4 if both
    its operands are. Products that only Pallas kernels compute are not seen.

    Layers that compute with a kernel but have no slot for a recipe are listed as high precision
    ("no slot").

    Args:
        model: any NNX model, with weights or as ``nnx.eval_shape`` makes it.
        example_inputs: what the model is called with, arrays or ``jax.ShapeDtypeStruct``; anything
            else is passed on as it is. With them the model is traced once, without computing, and
            a layer that never ran its operation is shown as high precision; bytes are those of the
            operands as they enter the products (:class:`fp4jax.nnx.Product`). Without them the
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
        layer    kind    kernel  precision  multiply-adds  bytes
        (model)  Linear  16x4    full       128            54
        full: 1 of 1 layers quantized, 94.1% of 68 parameters, 100.0% of 128 multiply-adds in FP4
    """
    traced = bool(example_inputs)
    products = products_of(model, example_inputs) if traced else ()
    by_path: dict[str, list[Product]] = {}
    for product in products:
        by_path.setdefault(product.path, []).append(product)
    used = {product.path for product in products if product.recipe}
    rows: dict[str, LayerReport] = {}
    for layer in layers(model):
        recipe = layer.operation.recipe if layer.operation is not None else None
        own = layer.held is not None and layer.operation is None
        rows[layer.path] = LayerReport(
            path=layer.path or "(model)",
            kind=layer.kind.__name__,
            kernel_shape=_kernel_shape(layer),
            recipe=recipe.name if recipe is not None and recipe.quantizes else "",
            used=layer.path in used if traced else None,
            products=tuple(by_path.get(layer.path, ())),
            reason=f"own {layer.slot.name}" if own else "",
            amax=None if layer.operation is None else _amax(layer.operation),
            format="" if recipe is None else formats_of(recipe.fprop),
        )
    for path, module in without_slot(model):
        shape = tuple(module.kernel.get_value().shape)
        rows[path] = LayerReport(
            path or "(model)",
            type(module).__name__,
            shape,
            reason="no slot",
            products=tuple(by_path.get(path, ())),
        )
    order = [".".join(map(str, path)) for path, _ in nnx.iter_modules(model)]
    parameters = sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    parameters += size(model).weights
    in_order = tuple(rows[path] for path in order if path in rows)
    held = {slot.path: slot.operation for slot in attention_slots(model)}
    attentions = {path: op.recipe.name for path, op in held.items() if op is not None}
    return Report(in_order, parameters, traced, products, attentions)
