"""How a layer's kernel lies in its stored matrix, in words that a file can carry.

The axes of the matrix are named and in row-major order: which of them make up its rows, which its
columns (along which two codes share a byte and 16 a scale), how long each is, and how long with the
zeros that fill up blocks. :mod:`fp4jax.packed.file_format` says how they make the kernel again.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.hadamard import DEFAULT_SIGNS
from fp4jax.core.spec import TensorSpec
from fp4jax.packed.kernel import PackedKernel
from fp4jax.packed.layout import Layout

# Name, length, length as stored.
Axis = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """A packed kernel without its numbers.

    Attributes:
        stack: sizes of a stack of layers; leading axes of codes, scales and amax.
        leading: axes of codes and scales after that: groups or batch entries.
        rows, columns: axes of the matrix.
        kernel_axes: names of all axes in the kernel's order; "group" and "out" are one axis of it,
            and so may be several input or output dimensions.
        taps_reversed: whether the taps are stored last to first, in every spatial dimension.
        block: (1, 16): 16 columns of a row share a scale; (16, 16): those of 16 rows.
        bound: tensor scale = amax / bound.
        hadamard: None, or 16 signs: every run of 16 columns is stored as v diag(signs) H16 / 4.
        dtype: of the float kernel that was quantized.
    """

    stack: tuple[int, ...]
    leading: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    kernel_axes: tuple[str, ...]
    taps_reversed: bool
    block: tuple[int, int]
    bound: float
    hadamard: tuple[int, ...] | None
    dtype: str

    @classmethod
    def of(cls, layout: Layout, kernel: PackedKernel, spec: TensorSpec) -> "StoredMatrix":
        """That of a packed layer, whose kernel was quantized by ``spec``."""
        tiles = spec.block[0] == BLOCK
        return cls(
            **_axes(layout, kernel.shape, tiles),
            stack=tuple(kernel.amax.get_value().shape),
            block=spec.block,
            bound=float(spec.bound),
            hadamard=DEFAULT_SIGNS if spec.hadamard else None,
            dtype=kernel.dtype.name,
        )

    def stored_shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """Of some axes, with the zeros that fill up blocks."""
        return tuple(stored for _, _, stored in axes)

    def kernel(self, matrix: Any, shape: Sequence[int]) -> np.ndarray:
        """The float kernel of a matrix that was dequantized, in the kernel's basis.

        Args:
            matrix: (*stack, *leading, rows, columns), rows and columns as stored or shorter by
                what fills up their last block.
            shape: of one layer's float kernel.
        """
        matrix = np.asarray(matrix)
        n, k = (math.prod(self.stored_shape(axes)) for axes in (self.rows, self.columns))
        n, k = n - matrix.shape[-2], k - matrix.shape[-1]
        matrix = np.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, n), (0, k)])
        axes = (*self.leading, *self.rows, *self.columns)
        whole = matrix.reshape(*self.stack, *self.stored_shape(axes))
        cut = whole[(..., *(slice(length) for _, length, _ in axes))]
        names = [name for name, _, _ in axes]
        outer = len(self.stack)
        order = [outer + names.index(name) for name in self.kernel_axes]
        kernel = cut.transpose(*range(outer), *order)
        if self.taps_reversed:
            named = enumerate(self.kernel_axes)
            taps = tuple(outer + a for a, name in named if name.startswith("tap"))
            kernel = np.flip(kernel, taps)
        return np.ascontiguousarray(kernel).reshape(*self.stack, *shape)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "StoredMatrix":
        """The inverse of :meth:`to_json`, after lists took the place of tuples."""
        return cls(**{name: _frozen(value) for name, value in record.items()})


def _axes(layout: Layout, shape: Sequence[int], tiles: bool) -> dict[str, Any]:
    """The axes of a matrix, whose kernel's shape has inputs before outputs."""
    if layout.slot == "dot_general":
        inner = layout.batch + layout.inner
        batch, k = math.prod(shape[: layout.batch]), math.prod(shape[layout.batch : inner])
        n = math.prod(shape[inner:])
        return {
            "leading": (_axis("batch", batch),) if layout.batch else (),
            "rows": (_axis("out", n, pad=tiles),),
            "columns": (_axis("in", k, pad=True),),
            "kernel_axes": (*(["batch"] if layout.batch else []), "in", "out"),
            "taps_reversed": False,
        }
    *taps, i, o = shape
    spatial = tuple(_axis(f"tap{d}", n) for d, n in enumerate(taps))
    names, groups = tuple(name for name, *_ in spatial), layout.groups
    if layout.slot == "conv_general_dilated":
        return {
            "leading": (_axis("group", groups),) if groups > 1 else (),
            "rows": (_axis("out", o // groups, pad=tiles),),
            "columns": (*spatial, _axis("in", i, pad=True)),
            "kernel_axes": (*names, "in", *(["group"] if groups > 1 else []), "out"),
            "taps_reversed": False,
        }
    return {
        "leading": (),
        "rows": (*spatial, _axis("out", o, pad=tiles)),
        "columns": (_axis("in", i, pad=True),),
        "kernel_axes": (*names, *(("out", "in") if layout.flip else ("in", "out"))),
        # A flipped kernel was turned over once already.
        "taps_reversed": not layout.flip,
    }


def _axis(name: str, length: int, pad: bool = False) -> Axis:
    return (name, length, -(-length // BLOCK) * BLOCK if pad else length)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
