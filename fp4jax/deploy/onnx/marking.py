"""Packed layers as marked calls: one equation of the trace for a layer's whole product.

An export must not read a quantizer out of a thousand elementwise operations. So each packed
layer of a copy of the model gets an operation that binds the primitive ``fp4_layer``: it knows the
layer's path and how x and the packed w are multiplied, and is never computed. Layers that are
not packed get ``jax.lax``'s own products, without the forms that are fast on CPUs.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters import batching

from fp4jax.core.primitive import Primitive
from fp4jax.core.typing import Array
from fp4jax.nnx.packed_operations import (
    PackedConv,
    PackedConvTranspose,
    PackedDotGeneral,
    PackedOp,
)
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.dot import Dot
from fp4jax.packed.kernel import Weight
from fp4jax.packed.product import Product

#: x -> the layer's product, or x as attention quantizes it. ``path``: of the layer; ``product``:
#: how; ``shape``, ``dtype``: of the result for one example; ``examples``: leading axes of x over
#: which ``jax.vmap`` went.
fp4_layer = Primitive("fp4_layer")


@fp4_layer.def_abstract_eval
def _result(x: Any, *, path, product, shape, dtype, examples):
    del path, product
    return x.update(shape=(*x.shape[:examples], *shape), dtype=jnp.dtype(dtype), weak_type=False)


def _batch(args, dims, *, examples, **params):
    (x,), (axis,) = args, dims
    x = jnp.moveaxis(x, axis, 0)
    return fp4_layer.bind(x, examples=examples + 1, **params), 0


batching.primitive_batchers[fp4_layer] = _batch


_FUNCTION: ContextVar[Callable[..., Array] | None] = ContextVar("function", default=None)


@contextlib.contextmanager
def in_place_of_layers(function: Callable[..., Array]) -> Iterator[None]:
    """Marked layers call ``function(path, product, x, packed w[, amax])`` in this block."""
    token = _FUNCTION.set(function)
    try:
        yield
    finally:
        _FUNCTION.reset(token)


def bind(path: str, product: Callable[..., Array], x: Array, *operands: Any) -> Array:
    """``product(x, *operands)`` as a marked call, or what :func:`in_place_of_layers` puts there."""
    if (function := _FUNCTION.get()) is not None:
        return function(path, product, x, *operands)
    out = jax.eval_shape(product, x, *operands)
    return fp4_layer.bind(
        x, path=path, product=product, shape=out.shape, dtype=out.dtype.name, examples=0
    )


class Marked(nnx.Module):
    """Stands in the slot of a packed layer while its model is traced."""

    def __init__(self, path: str, operation: PackedOp):
        self.path, self.operation = path, operation

    @property
    def amaxes(self) -> tuple[Array, ...]:
        """The static amax of x, of a layer that has one."""
        amax = self.operation.x_amax
        return () if amax is None else (amax,)

    def bind(self, product: Product, x: Array, weight: Weight) -> Array:
        """The marked call."""
        return bind(self.path, product, x, weight.values, *self.amaxes)


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


MARKED: dict[type[PackedOp], type[Marked]] = {
    PackedDotGeneral: MarkedDot,
    PackedConv: MarkedConv,
    PackedConvTranspose: MarkedConvTranspose,
}


class Plain(nnx.Module):
    """Flax's own product in the slot of a layer that is not packed.

    A module, so that no layer takes it for the default, which has other forms on CPUs.
    """

    def __init__(self, function: Callable[..., Array]):
        self.function = nnx.static(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return self.function(*args, **kwargs)
