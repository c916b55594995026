"""Arrays as the kernels take them, (r, 16, c), and results back in the array's own axes."""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from fp4jax.core.blocks import BLOCK, pad_to_blocks
from fp4jax.core.number_format import NVFP4
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array

#: A kernel counts elements with int32.
_MOST = 2**31


@dataclasses.dataclass(frozen=True)
class KernelView:
    """How an array of ``shape``, blocked along ``axes`` (non-negative), is seen as (r, 16, c).

    The first blocked axis is cut in place: r counts the blocks, c all that lies behind the axis.
    The second axis of tiles, padded to 16, must be c; where it is not both axes are moved last.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def moved(self) -> bool:
        """Whether axes are moved to get there."""
        if len(self.axes) == 1:
            return False
        low, high = sorted(self.axes)
        return math.prod(self.shape[low + 1 : high]) * math.prod(self.shape[high + 1 :]) != 1

    @property
    def _order(self) -> tuple[int, ...]:
        """The axes of ``shape`` in the order in which the kernel sees them."""
        every = range(len(self.shape))
        if not self.moved:
            return tuple(every)
        return (*(a for a in every if a not in self.axes), *sorted(self.axes))

    @property
    def _padded(self) -> tuple[int, ...]:
        """The padded shape in that order."""
        return tuple(
            _round_up(self.shape[a]) if a in self.axes else self.shape[a] for a in self._order
        )

    @property
    def _first(self) -> int:
        """The blocked axis that is cut into 16 arrays, in that order."""
        return min(self._order.index(a) for a in self.axes)

    @property
    def columns(self) -> int:
        """c."""
        return math.prod(self._padded[self._first + 1 :])

    def split(self, x: Array) -> Array:
        """(r, 16, c), padded with zeros."""
        x = pad_to_blocks(x, self.axes).transpose(self._order)
        return x.reshape(-1, BLOCK, self.columns)

    def merge(self, values: Array, padded: bool = False) -> Array:
        """The inverse of :meth:`split`; ``padded`` keeps the padding."""
        order = self._order
        x = values.reshape(self._padded).transpose([order.index(a) for a in range(len(order))])
        return x if padded else lax.slice(x, (0,) * x.ndim, self.shape)

    def blocks_last(self, y: Array, factors: tuple[int, ...]) -> Array:
        """A kernel's result with the blocked axes moved last.

        ``factors`` says by how much it is shorter than x along each of ``axes``, in their order.
        """
        order = self._order
        shape = list(self._padded)
        for axis, factor in zip(self.axes, factors, strict=True):
            shape[order.index(axis)] //= factor
        return jnp.moveaxis(
            y.reshape(shape),
            [order.index(a) for a in self.axes],
            range(-len(self.axes), 0),
        )


def _round_up(n: int) -> int:
    return -(-n // BLOCK) * BLOCK


def obstacle(shape: tuple[int, ...], spec: TensorSpec, axes: tuple[int, ...]) -> str | None:
    """Why the kernels cannot quantize such an array; None if they can."""
    if spec.format != NVFP4:
        return f"format {spec.format.name!r}; the kernels are NVFP4's"
    if spec.scaling != "amax":
        return f"scaling={spec.scaling!r} compares two candidates a block; there is no kernel"
    if spec.several_scales:
        return f"amax={spec.amax!r} has several tensor scales; the kernels take one"
    if math.prod(shape) == 0:
        return "the array is empty"
    padded = math.prod(_round_up(n) if a in axes else n for a, n in enumerate(shape))
    if padded >= _MOST:
        return f"an array of {padded} elements is too large for 32-bit indices"
    if spec.stochastic and KernelView(shape, axes).moved:
        return "random bits belong to positions, and tiles over these axes would move them"
    return None
