"""What is static in a quantized convolution: its geometry, its recipe, where blocks lie."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from fp4jax.core.typing import Array
from fp4jax.ops import gemm
from fp4jax.ops.convolution import products as windows
from fp4jax.ops.convolution.geometry import Geometry, merge_groups
from fp4jax.ops.gemm import BlockAxes
from fp4jax.ops.recipe import Recipe

# Operands as the quantizer sees them. Data: (n, *space, group, channel); kernels:
# (*taps, in, group, out); in wgrad (position, group, channel) on both sides.
CHANNELS = BlockAxes(contracted=-1, tile=None)
KERNEL_IN = BlockAxes(contracted=-3, tile=(-1, -3), rows=(-2, -1))
KERNEL_OUT = BlockAxes(contracted=-1, tile=(-1, -3), rows=(-3, -2))
POSITIONS = BlockAxes(contracted=0, tile=None, rows=(-2, -1))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is static: geometry, and how to quantize."""

    recipe: Recipe
    geometry: Geometry
    precision: Any
    out_dtype: Any
    out_sharding: Any

    @property
    def shares_w(self) -> bool:
        """Whether fprop leaves its w for dgrad; on explicit meshes it has no sharding to name."""
        return self.recipe.shares_w and self.out_sharding is None

    @property
    def products(self) -> tuple[Callable[..., Array], Callable[..., Array]]:
        """fprop's and dgrad's, each the other's adjoint."""
        if self.geometry.mirrored:
            return windows.scatter, windows.gather
        return windows.gather, windows.scatter

    @property
    def leading(self) -> int:
        """The dimension of lhs that leads in x: that of the examples."""
        return self.geometry.layout.lhs_spec[0]

    def fprop_x(self, lhs: Array) -> tuple[Array, BlockAxes]:
        """x of fprop as it is quantized."""
        split = self.geometry.split(self.geometry.x(lhs))
        return split, data_axes(split)

    def lhs(self, x: Array) -> Array:
        """Undoes what :meth:`fprop_x` did."""
        return self.geometry.lhs(merge_groups(x))

    def multiply(self, product: Callable[..., Array], data: Array, w: Array, **options) -> Array:
        """``product`` (gather or scatter) of split data and kernel values."""
        geometry, merged = self.geometry, merge_groups(data)
        if product is windows.gather:
            merged = geometry.dilate(merged)
        y = product(merged, geometry.as_kernel(w), window=geometry.window, **options)
        return geometry.undilate(y) if product is windows.scatter else y

    def contract(
        self, data: gemm.Operand, w: gemm.Operand, product: Callable, dtype, by_inputs: bool
    ) -> Array:
        """``product`` (gather or scatter) of quantized data and kernel, and their scales.

        Several scales of the kernel are one for each channel of the result: its inputs in dgrad.
        """

        def of_data(scale: Array) -> Array:
            return scale.reshape(scale.shape[:-1])

        def of_kernel(scale: Array) -> Array:
            channels = scale.swapaxes(-3, -2) if by_inputs else scale
            return channels.reshape((1,) * (self.geometry.window.ndim + 1) + (-1,))

        multiply = functools.partial(self.multiply, product)
        return gemm.contract(data, w, multiply, dtype, self.precision, (of_data, of_kernel))


def data_axes(split: Array) -> BlockAxes:
    """Of data (n, *space, group, channel)."""
    return CHANNELS._replace(examples=(-split.ndim, split.shape[0], 1))
