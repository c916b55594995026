"""Packed layers as marked calls: one equation of the trace for a layer's whole product.

An export must not read a quantizer out of a thousand elementwise operations. So each packed
layer of a copy of the model gets an operation that binds the primitive ``fp4_layer``: it knows the
layer's path and how x and the packed w are multiplied, and is never computed. Layers that are
not packed get ``jax.lax``'s own products, without the forms that are fast on CPUs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching

from fp4jax.core.typing import Array
from fp4jax.nnx.packed_operations import (
    PackedConv,
    PackedConvTranspose,
    PackedDotGeneral,
    PackedOp,
)
from fp4jax.nnx.slots import Layer, layers
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.dot import Dot
from fp4jax.packed.kernel import Weight
from fp4jax.packed.product import Product

#: x -> the layer's product. ``path``: of the layer; ``product``: how; ``shape``, ``dtype``: of the
#: result for one example; ``examples``: leading axes of x over which ``jax.vmap`` went.
fp4_layer = Primitive("fp4_layer")


@fp4_layer.def_abstract_eval
def _result(x: Any, *, path, product, shape, dtype, examples):
    del path, product
    return jax.core.ShapedArray((*x.shape[:examples], *shape), jnp.dtype(dtype))


def _batch(args, dims, *, examples, **params):
    (x,), (axis,) = args, dims
    x = jnp.moveaxis(x, axis, 0)
    return fp4_layer.bind(x, examples=examples + 1, **params), 0


batching.primitive_batchers[fp4_layer] = _batch


class Marked(nnx.Module):
    """Stands in the slot of a packed layer while its model is traced."""

    def __init__(self, path: str, operation: PackedOp):
        self.path, self.operation = path, operation

    def bind(self, product: Product, x: Array, weight: Weight) -> Array:
        """The marked call."""
        out = jax.eval_shape(product, x, weight.values)
        return fp4_layer.bind(
            x, path=self.path, product=product, shape=out.shape, dtype=out.dtype.name, examples=0
        )


class MarkedDot(Marked):
    """For a ``dot_general`` slot."""

    def __call__(
        self, x, w, dims, precision=None, preferred_element_type=None, *, out_sharding=None
    ):
        options = self.operation.plan(w, precision, preferred_element_type, out_sharding)
        return self.bind(Dot.of(x, w, dims, **options), x, w)


class MarkedConv(Marked):
    """For a ``conv_general_dilated`` slot."""

    def __call__(
        self,
        x,
        w,
        window_strides,
        padding,
        *,
        precision=None,
        preferred_element_type=None,
        out_sharding=None,
        **arguments,
    ):
        options = self.operation.plan(w, precision, preferred_element_type, out_sharding)
        arguments |= {"window_strides": window_strides, "padding": padding}
        return self.bind(Convolution.of(x, w, arguments, **options), x, w)


class MarkedConvTranspose(Marked):
    """For the slot of :class:`fp4jax.nnx.ConvTranspose`."""

    def __call__(
        self,
        x,
        w,
        strides,
        padding,
        *,
        transpose_kernel=False,
        precision=None,
        preferred_element_type=None,
        **arguments,
    ):
        # settled when the kernel was packed
        del transpose_kernel
        options = self.operation.plan(w, precision, preferred_element_type, None)
        arguments |= {"strides": strides, "padding": padding}
        return self.bind(TransposedConvolution.of(x, w, arguments, **options), x, w)


_MARKED: dict[type[PackedOp], type[Marked]] = {
    PackedDotGeneral: MarkedDot,
    PackedConv: MarkedConv,
    PackedConvTranspose: MarkedConvTranspose,
}


class Plain(nnx.Module):
    """``jax.lax``'s product in the slot of a layer that is not packed.

    A module, so that no layer takes it for Flax's default, which has other forms on CPUs.
    """

    def __init__(self, slot: str):
        self.slot = slot

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return getattr(lax, self.slot)(*args, **kwargs)


def mark(model: nnx.Module) -> nnx.Module:
    """A copy of a packed model to be traced.

    Raises:
        ValueError: a layer whose recipe quantizes activations but not weights.
    """
    model = nnx.clone(model)
    for layer in layers(model):
        layer.inject(_operation(layer))
    return model


@functools.singledispatch
def _marked(operation: Any, layer: Layer) -> nnx.Module:
    if operation is not None and any(operation.recipe.fprop):
        raise ValueError(
            f"layer {layer.path!r} has the recipe {operation.recipe.name!r}, which quantizes its "
            "activations but not its weights: there is nothing to pack in it. Export a model whose "
            "layers have quantized weights, or none."
        )
    return Plain(layer.slot.name)


@_marked.register
def _(operation: PackedOp, layer: Layer) -> nnx.Module:
    if layer.stack:
        raise ValueError(
            f"layer {layer.path!r} is a stack of {layer.stack} layers; give each a module of its "
            "own to export them."
        )
    return _MARKED[type(operation)](layer.path, operation)


def _operation(layer: Layer) -> nnx.Module:
    return _marked(layer.operation, layer)
