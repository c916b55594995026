"""What the injection slots of packed layers hold: operations that take a packed kernel."""

from typing import Any

import numpy as np
from flax import nnx

from fp4jax.core.typing import Array
from fp4jax.nnx.amax_variables import CalibratedAmax
from fp4jax.nnx.operations import Op
from fp4jax.ops.recipe import Recipe
from fp4jax.packed.convolution import Convolution, TransposedConvolution
from fp4jax.packed.dot import Dot
from fp4jax.packed.kernel import Weight


class PackedOp(Op):
    """An operation with a static recipe of which only the forward pass is left.

    Args:
        recipe: without a backward pass.
        amax: of x, (*stack), where the recipe has ``amax="static"`` for it.
        stack: of a stack of layers.
    """

    def __init__(self, recipe: Recipe, amax: Array | None = None, stack: tuple[int, ...] = ()):
        super().__init__(recipe, path="", stack=stack)
        self.amax = nnx.data(None if amax is None else CalibratedAmax(amax))

    @property
    def x_amax(self) -> Array | None:
        """The static amax of x, if there is one."""
        return None if self.amax is None else self.amax.get_value()

    def plan(self, weight: Any, precision: Any, preferred: Any, out_sharding: Any) -> dict:
        """What every packed product takes; ValueError for what packed layers lack."""
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
        return Dot.of(lhs, rhs, dimension_numbers, **options)(lhs, rhs.values, self.x_amax)


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
        return Convolution.of(lhs, rhs, arguments, **options)(lhs, rhs.values, self.x_amax)


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
        return TransposedConvolution.of(lhs, rhs, arguments, **options)(
            lhs, rhs.values, self.x_amax
        )
