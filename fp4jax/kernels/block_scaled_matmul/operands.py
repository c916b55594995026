"""Weights as they enter a product: packed, or decoded; without their tensor scale."""

import dataclasses
from typing import Any, NamedTuple

import jax

from fp4jax.core.typing import Array, Shaped, UInt8


class Packed(NamedTuple):
    """Codes of (rows, k), two in a byte, and their block scales: a row for 1 or for 16 rows."""

    codes: UInt8[Array, "rows half"]
    block_scales: Shaped[Array, "tiles blocks"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """Code value x block scale of a quantized matrix, and its tensor scale.

    ``values`` are bfloat16, which is exact, or float32 for products on CPU, which would convert
    bfloat16 each time. They lie as the codes do: (n, k) for a right operand of shape (k, n); of a
    rotated one in the rotated basis, where k is padded to a multiple of 16.
    """

    # Any, not Array: pytrees also carry shapes and None through these fields.
    values: Any
    scale: Any
    # of a rotated matrix: k before it was padded
    rotated: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, n), and the axes of a stack before."""
        *stack, n, k = self.values.shape
        return (*stack, self.rotated or k, n)

    @property
    def ndim(self) -> int:
        """2, or 3 for a stack of matrices."""
        return self.values.ndim

    def in_rotated_basis(self) -> "Decoded":
        """As QTensor.in_rotated_basis."""
        return dataclasses.replace(self, rotated=None)

    @property
    def nbytes(self) -> int:
        """Bytes of the values: 2 or 4 for each weight, where packed ones take 0.5625."""
        return self.values.size * self.values.dtype.itemsize
