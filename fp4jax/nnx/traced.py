"""What a model multiplies when it is called, found by tracing it once."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.core.grids import E2M1
from fp4jax.core.number_format import format_names
from fp4jax.core.spec import TensorSpec
from fp4jax.kernels import Decoded
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.keys import dotted
from fp4jax.nnx.operations import EinsumOp, Op
from fp4jax.nnx.slots import layers
from fp4jax.ops.convolution.geometry import Geometry, resolve
from fp4jax.ops.traced_products import TracedProduct, traced_products
from fp4jax.packed.kernel import Weight

# Names of scopes, with a number: of a call of a slot, of a module whose __call__ runs.
_CALL, _MODULE = "fp4jax_call_", "fp4jax_module_"
#: The function of jax.lax whose arguments each slot takes.
_OF_SLOT = {
    "dot_general": lax.dot_general,
    "einsum_op": jnp.einsum,
    "conv_general_dilated": lax.conv_general_dilated,
    "conv_transpose": lax.conv_transpose,
}


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of the forward pass.

    Attributes:
        path: of the layer or, for products outside of slots, of the innermost module whose
            ``__call__`` runs them; "" for the model's own.
        kind: "dot_general", "einsum_op", "conv_general_dilated" or "conv_transpose".
        lhs, rhs: shapes.
        recipe: name of the recipe of the layer's slot, or of the attention's, or "".
        specs: how lhs and rhs are quantized; None for high precision.
        times: how often it runs in a call of the model, as in ``nnx.scan`` or by several calls.
        multiply_adds: of all times. A convolution counts output positions x kernel weights, a
            transposed one input positions x kernel weights.
        bytes: of both operands as they enter, of all times: 4.5 bits a number in FP4 blocks of 16,
            4.03 in tiles, :attr:`fp4jax.Format.bits` in another format, else as their dtype has.
        geometry: of a convolution of a layer's slot; else None.
    """

    path: str
    kind: str
    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    recipe: str
    specs: tuple[TensorSpec | None, TensorSpec | None]
    times: int
    multiply_adds: int
    bytes: int
    geometry: Geometry | None = None

    def repeated(self, times: int) -> "Product":
        """The product run so many times."""
        return dataclasses.replace(
            self,
            times=times * self.times,
            multiply_adds=times * self.multiply_adds,
            bytes=times * self.bytes,
        )

    @property
    def fp4(self) -> bool:
        """Whether both operands are in FP4, as a product on FP4 units needs: nvfp4 or mxfp4."""
        return all(spec is not None and spec.format.elements == E2M1 for spec in self.specs)

    @property
    def format(self) -> str:
        """As :func:`formats_of` has it."""
        return formats_of(self.specs)


def formats_of(specs: Sequence[TensorSpec | None]) -> str:
    """Of lhs and rhs: "nvfp4", or "mxfp8 * mxfp4" if they differ; "" if none is quantized.

    Example:
        >>> formats_of([TensorSpec(), TensorSpec()]), formats_of([None, TensorSpec(format="int4")])
        ('nvfp4', 'high precision * int4')
    """
    names = ["high precision" if spec is None else spec.format.name for spec in specs]
    if not any(specs):
        return ""
    return " * ".join(dict.fromkeys(names))


def products_of(model: nnx.Module, inputs: Sequence[Any]) -> tuple[Product, ...]:
    """The products of ``model(*inputs)``, in the order of the program.

    Args:
        model: left as it is; a copy without values is traced.
        inputs: arrays or shapes, and whatever else the model takes.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.nnx import apply_recipe
        >>> mlp = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
        >>> (product,) = products_of(apply_recipe(mlp, "full"), [jnp.ones((2, 4))])
        >>> product.path, product.fp4, product.multiply_adds
        ('layers.0', True, 32)
    """
    graph, state = nnx.split(model)
    copy: Any = nnx.merge(graph, jax.eval_shape(lambda state: state, state))
    calls = _Calls()
    for layer in layers(copy):
        if layer.held is None or layer.operation is not None:
            held = layer.operation or _OF_SLOT[layer.slot.name]
            layer.inject(_Watched(held, layer.path, layer.slot.name, calls))
    paths = []
    for path, module in list(nnx.iter_modules(copy)):
        if callable(module) and not isinstance(module, _Watched | Op):
            _mark(module, f"{_MODULE}{len(paths)}")
            paths.append(dotted(path))
    graph, state = nnx.split(copy)
    leaves, structure = jax.tree.flatten(tuple(inputs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def run(state: Any, arrays: Sequence[Any]) -> Any:
        given = iter(arrays)
        whole = [next(given) if a else leaf for a, leaf in zip(is_array, leaves, strict=True)]
        nnx.merge(graph, state)(*jax.tree.unflatten(structure, whole))

    arrays = [leaf for a, leaf in zip(is_array, leaves, strict=True) if a]
    traced = traced_products(jax.make_jaxpr(run)(state, arrays).jaxpr, whole=_CALL)
    within = {slot.module_path: slot.operation for slot in attention_slots(model)}
    return tuple(
        _outside(product, paths, within)
        if product.equation is not None
        else calls.products[_last(product.scope, _CALL)].repeated(product.times)
        for product in traced
    )


class _Calls:
    """The products of the slots that were called; compared by identity, so nothing is cached."""

    def __init__(self) -> None:
        self.products: list[Product] = []


class _Watched(nnx.Module):
    """An operation that notes its calls, in a scope of its own."""

    def __init__(self, operation: Any, path: str, kind: str, calls: _Calls):
        self.operation = nnx.data(operation) if isinstance(operation, Op) else operation
        self.path, self.kind, self.calls = path, kind, calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = functools.partial(_OF_SLOT[self.kind], **_plain(kwargs))
        op = EinsumOp if self.kind == "einsum_op" else Op
        lhs, rhs, rest = op.operands(args)
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (lhs, rhs)]
        call = lambda a, b: function(*op.arguments(a, b, rest))  # noqa: E731
        program, geometry = jax.make_jaxpr(call)(*shapes), None
        if self.kind.startswith("conv"):
            geometry = resolve(call, *shapes, mirrored=self.kind == "conv_transpose").geometry
        recipe = getattr(self.operation, "recipe", None)
        specs = (None, None) if recipe is None else recipe.fprop
        product = Product(
            path=self.path,
            kind=self.kind,
            lhs=lhs.shape,
            rhs=rhs.shape,
            recipe=recipe.name if recipe is not None and recipe.quantizes else "",
            specs=specs,
            times=1,
            multiply_adds=sum(p.multiply_adds for p in traced_products(program.jaxpr)),
            bytes=_bytes(shapes[0], specs[0]) + _bytes_of_weights(rhs, specs[1]),
            geometry=geometry,
        )
        self.calls.products.append(product)
        with jax.named_scope(f"{_CALL}{len(self.calls.products) - 1}"):
            return self.operation(*args, **kwargs)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Without what says where the result lies."""
    return {name: value for name, value in options.items() if name != "out_sharding"}


def _outside(product: TracedProduct, paths: Sequence[str], attentions: dict[str, Any]) -> Product:
    """A product that no layer's slot computes."""
    lhs, rhs = (v.aval for v in product.equation.invars[:2])
    path = paths[_last(product.scope, _MODULE)]
    operation, recipe = attentions.get(path), ""
    # Of fp4jax's own functions, called directly: the name of the scope is all that is known.
    specs = _specs_of(product.scope)
    for name in ("qk", "pv"):
        if operation is not None and name in product.scope:
            specs, recipe = getattr(operation.recipe, name).fprop, operation.recipe.name
    size = sum(map(_bytes, (lhs, rhs), specs)) * product.times
    name, macs = product.equation.primitive.name, product.multiply_adds
    return Product(path, name, lhs.shape, rhs.shape, recipe, specs, product.times, macs, size)


def _specs_of(scope: Sequence[str]) -> tuple[TensorSpec | None, TensorSpec | None]:
    """What the name of a product's scope says, see Recipe.scope."""
    known = {"fp4": "nvfp4"} | {name: name for name in format_names()}
    for name in scope:
        if name == "fp4_packed":
            return TensorSpec(), TensorSpec()
        names = [known.get(part) for part in name.removesuffix("_fprop").split("*")]
        if name.endswith("_fprop") and None not in names:
            return TensorSpec(format=names[0]), TensorSpec(format=names[-1])
    return None, None


def _last(scope: Sequence[str], prefix: str) -> int:
    """The number of the innermost scope of a kind."""
    return [int(n.removeprefix(prefix)) for n in scope if n.startswith(prefix)][-1]


def _bytes_of_weights(w: Any, spec: TensorSpec | None) -> int:
    """Of a kernel as it lies in memory: a decoded one has no codes."""
    decoded = isinstance(w, Weight) and isinstance(w.values, Decoded)
    return w.values.nbytes if decoded else _bytes(w, spec)


def _bytes(array: Any, spec: TensorSpec | None) -> int:
    """Bytes of an array, or of its codes and block scales."""
    if spec is None:
        return math.prod(array.shape) * array.dtype.itemsize
    size = math.prod(array.shape)
    codes = -(-size * spec.format.stored_bits // 8)
    if spec.block is None:
        return codes
    return codes + -(-size // math.prod(spec.block)) * spec.format.scale_bits // 8


def _mark(module: nnx.Module, scope: str) -> None:
    """Makes a module run its ``__call__`` in a named scope."""
    kind: Any = type(module)

    def __call__(self, *args, **kwargs):  # noqa: N807
        with jax.named_scope(scope):
            return kind.__call__(self, *args, **kwargs)

    marked = type(kind.__name__, (kind,), {"__call__": __call__})
    object.__setattr__(module, "__class__", marked)
