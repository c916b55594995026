"""Value: what stands for an array of the trace while its graph is written."""

import dataclasses
import math
from typing import Any

import numpy as np

#: Sizes of an array; a batch of any size is a symbolic dimension of JAX.
Shape = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array that is known (``array``) or computed by the graph (``name``).

    A value may be held small: of ``held`` sizes, each 1 or that of ``shape``, to which ONNX's
    elementwise operators broadcast it by themselves.

    Attributes:
        shape: of the array in the trace.
        dtype: of the array.
        held: of what is held; of the same rank.
        array: its numbers; None if the graph computes them.
        name: in the graph; for an array what it is to be called there, or "".
    """

    shape: Shape
    dtype: np.dtype
    held: Shape
    array: np.ndarray | None = None
    name: str = ""

    @classmethod
    def known(cls, array: Any, name: str = "", shape: Shape | None = None) -> "Value":
        """A constant, or one that is broadcast to ``shape``."""
        array = np.asarray(array)
        return cls(array.shape if shape is None else shape, array.dtype, array.shape, array, name)

    @property
    def is_small(self) -> bool:
        """Whether it is held smaller than it is."""
        return self.held != self.shape

    @property
    def is_static(self) -> bool:
        """Whether all sizes are numbers."""
        return is_static(self.shape)

    def whole(self) -> np.ndarray:
        """A known array in its own shape."""
        assert self.array is not None
        return np.broadcast_to(self.array, self.shape)


def is_static(shape: Shape) -> bool:
    """Whether all sizes are numbers.

    Example:
        >>> import jax
        >>> is_static((2, 3)), is_static(jax.export.symbolic_shape("b, 3"))
        (True, False)
    """
    return all(isinstance(n, int | np.integer) for n in shape)


def for_reshape(shape: Shape) -> list[int]:
    """A shape as the operator Reshape takes it: the one size that is not known is -1.

    Raises:
        ValueError: two of them.

    Example:
        >>> import jax
        >>> for_reshape(jax.export.symbolic_shape("4*b, 3"))
        [-1, 3]
    """
    sizes = [int(n) if isinstance(n, int | np.integer) else -1 for n in shape]
    if sizes.count(-1) > 1:
        raise ValueError(
            f"a shape of {shape} has two sizes that depend on the batch; export with a fixed batch."
        )
    return sizes


def size(shape: Shape) -> int:
    """Number of elements of a static shape."""
    return math.prod(int(n) for n in shape)
