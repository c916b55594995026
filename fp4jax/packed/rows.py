"""Rows: a stored matrix as others keep it, outputs by inputs, a scale for 16 columns of each row.

:class:`~fp4jax.packed.stored.StoredMatrix` fills up the rows of 16x16 tiles with zeros and keeps
one scale for a tile. Whoever reads matrices (n, k) with scales (n, k / 16) wants neither: here rows
that only fill up are left out, groups come one after the other, and a tile's scale is repeated.
"""

import dataclasses
import math

import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.packed.stored import StoredMatrix


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A matrix (n, k), k a multiple of 16.

    Attributes:
        codes: uint8 (n, k / 2), two codes a byte, the even column in the low bits.
        scales: uint8 (n, k / 16), bytes of E4M3.

    Example:
        >>> from flax import nnx
        >>> from fp4jax.nnx import apply_recipe, pack
        >>> from fp4jax.nnx.packed_files import contents_of
        >>> layer = nnx.Linear(32, 20, rngs=nnx.Rngs(0))
        >>> contents = contents_of(pack(apply_recipe(layer, "2d+rht")))
        >>> codes, scales = (contents.arrays[f"kernel.{a}"] for a in ("codes", "block_scales"))
        >>> codes.shape, scales.shape
        ((32, 16), (2, 2))
        >>> rows = Rows.of(contents.layers[""].stored, codes, scales)
        >>> rows.codes.shape, rows.scales.shape
        ((20, 16), (20, 2))
    """

    codes: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, stored: StoredMatrix, codes: np.ndarray, scales: np.ndarray) -> "Rows":
        """Those of one layer's arrays.

        Raises:
            ValueError: a stack of layers.
        """
        _check(stored)
        scales = scales.view(np.uint8)
        if stored.block[0] == BLOCK:
            scales = scales.repeat(BLOCK, -2)
        return cls(*(_cut(stored, a) for a in (codes, scales)))

    def arrays(self, stored: StoredMatrix) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of :meth:`of`: codes, and bytes of scales.

        Raises:
            ValueError: another number of rows or columns, or rows of a tile with unequal scales.
        """
        _check(stored)
        n = math.prod(length for _, length, _ in (*stored.leading, *stored.rows))
        k = math.prod(stored.stored_shape(stored.columns))
        if (self.codes.shape, self.scales.shape) != ((n, k // 2), (n, k // BLOCK)):
            raise ValueError(
                f"codes are {self.codes.shape} and scales {self.scales.shape}; a matrix of {n} "
                f"rows and {k} columns has {(n, k // 2)} and {(n, k // BLOCK)}."
            )
        codes, scales = (_filled(stored, a) for a in (self.codes, self.scales))
        if stored.block[0] == BLOCK:
            whole, scales = scales, scales[..., ::BLOCK, :]
            if (_cut(stored, scales.repeat(BLOCK, -2)) != _cut(stored, whole)).any():
                raise ValueError("rows of a 16x16 tile have unequal scales; it is another file.")
        return codes, scales


def _check(stored: StoredMatrix) -> None:
    if stored.stack:
        raise ValueError(
            f"a stack of {stored.stack} layers is no matrix; give each a module of its own."
        )


def _cut(stored: StoredMatrix, a: np.ndarray) -> np.ndarray:
    """(*leading, rows, c) -> (n, c) without the rows that fill up."""
    axes = (*stored.leading, *stored.rows)
    split = a.reshape(*stored.stored_shape(axes), a.shape[-1])
    cut = split[tuple(slice(length) for _, length, _ in axes)]
    return np.ascontiguousarray(cut).reshape(-1, a.shape[-1])


def _filled(stored: StoredMatrix, a: np.ndarray) -> np.ndarray:
    """The inverse of :func:`_cut`."""
    axes = (*stored.leading, *stored.rows)
    split = a.reshape(*(length for _, length, _ in axes), a.shape[-1])
    filled = np.pad(split, [*((0, full - length) for _, length, full in axes), (0, 0)])
    leading = stored.stored_shape(stored.leading)
    return filled.reshape(*leading, math.prod(stored.stored_shape(stored.rows)), a.shape[-1])
