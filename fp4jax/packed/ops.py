"""What the injection slots of packed layers hold: operations that take a packed kernel."""

import dataclasses
import math
from typing import Any

import numpy as np

from fp4jax import nnx as fp4nnx
from fp4jax.core.qtensor import QTensor
from fp4jax.core.typing import Array
from fp4jax.ops.gemm import Operand
from fp4jax.ops.recipe import Recipe
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.kernel import Weight
from fp4jax.packed.matmul import X_AXES, matmul, plain_matmul, quantized_rows
from fp4jax.packed.product import Product


class PackedOp(fp4nnx.Op):
    """An operation with a static recipe of which only the forward pass is left."""

    def __init__(self, recipe: Recipe):
        super().__init__(recipe, path="")

    def plan(self, weight: Any, precision: Any, preferred: Any, out_sharding: Any) -> dict:
        """The arguments of every :class:`Product`; ValueError for what packed layers lack."""
        if not isinstance(weight, Weight):
            raise ValueError(
                f"the kernel is a {type(weight).__name__}, but this layer's operation multiplies "
                "packed kernels: its kernel was replaced after fp4jax.nnx.pack. Set it before."
            )
        if out_sharding is not None:
            raise ValueError("packed layers take no out_sharding; leave it out.")
        spec, kernel_spec = self.recipe.fprop
        return {
            "spec": spec,
            "hadamard": kernel_spec is not None and kernel_spec.hadamard,
            "out_dtype": np.dtype(preferred or weight.dtype),
            "precision": tuple(precision) if isinstance(precision, list) else precision,
        }


@dataclasses.dataclass(frozen=True)
class _Dot(Product):
    """x (..., k...) and w (*batch, k, n), after x's dimensions are put in order."""

    # batch, free, contracted dimensions of x
    order: tuple[int, ...]
    # (b,), or () if there are no batch dimensions
    batch: tuple[int, ...]
    rows_and_k: tuple[int, int]
    # of the result
    shape: tuple[int, ...]

    axes = X_AXES

    def prepare(self, x: Array) -> Array:
        return x.transpose(self.order).reshape(*self.batch, *self.rows_and_k)

    def quantize(self, x: Array) -> Operand | QTensor:
        return quantized_rows(x, self.spec)

    def multiply(self, x: Any, w: QTensor, *, plain: bool = False) -> Array:
        if plain:
            return plain_matmul(x, w, self.out_dtype, self.precision).reshape(self.shape)
        return matmul(x, w, self.out_dtype).reshape(self.shape)


class PackedDotGeneral(PackedOp):
    """For a ``dot_general`` slot."""

    def __call__(
        self,
        lhs: Array,
        rhs: Any,
        dimension_numbers: Any,
        precision: Any = None,
        preferred_element_type: Any = None,
        *,
        out_sharding: Any = None,
    ) -> Array:
        options = self.plan(rhs, precision, preferred_element_type, out_sharding)
        (contracted, w_contracted), (batch, w_batch) = (
            tuple(tuple(int(d) for d in dims) for dims in both) for both in dimension_numbers
        )
        inner = len(batch) + len(contracted)
        if w_batch + w_contracted != tuple(range(inner)):
            raise ValueError(
                f"dimension_numbers are {dimension_numbers}; packed kernels are (*batch, *in, *out)"
                " and contracted over all of *in."
            )
        free = tuple(d for d in range(lhs.ndim) if d not in batch + contracted)
        size = lambda dims: math.prod(lhs.shape[d] for d in dims)  # noqa: E731
        plan = _Dot(
            **options,
            order=batch + free + contracted,
            batch=(size(batch),) if batch else (),
            rows_and_k=(size(free), size(contracted)),
            shape=tuple(lhs.shape[d] for d in batch + free) + rhs.shape[inner:],
        )
        return plan(lhs, rhs.values)


class PackedConv(PackedOp):
    """For a ``conv_general_dilated`` slot."""

    def __call__(
        self,
        lhs: Array,
        rhs: Any,
        window_strides: Any,
        padding: Any,
        *,
        precision: Any = None,
        preferred_element_type: Any = None,
        out_sharding: Any = None,
        **arguments: Any,
    ) -> Array:
        options = self.plan(rhs, precision, preferred_element_type, out_sharding)
        arguments |= {"window_strides": window_strides, "padding": padding}
        return Convolution.of(lhs, rhs, arguments, **options)(lhs, rhs.values)


class PackedConvTranspose(PackedOp):
    """For the slot of :class:`fp4jax.nnx.ConvTranspose`."""

    def __call__(
        self,
        lhs: Array,
        rhs: Any,
        strides: Any,
        padding: Any,
        *,
        # settled when the kernel was packed
        transpose_kernel: bool = False,
        precision: Any = None,
        preferred_element_type: Any = None,
        **arguments: Any,
    ) -> Array:
        options = self.plan(rhs, precision, preferred_element_type, None)
        arguments |= {"strides": strides, "padding": padding}
        return TransposedConvolution.of(lhs, rhs, arguments, **options)(lhs, rhs.values)
