"""The packed matrix of a layer as a file stores it: codes and scale bytes, row by row."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax.core.blocks import BLOCK
from fp4jax.core.qtensor import QTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Weights (rows, columns), columns a multiple of 16: outputs by inputs.

    Attributes:
        codes: uint8 (rows, columns / 2), two codes a byte, the even column in the low bits.
        scales: uint8, bytes of E4M3 (rows, columns / 16); those of 16x16 tiles are repeated.
        tensor_scale: amax / bound, float32.
    """

    codes: np.ndarray
    scales: np.ndarray
    tensor_scale: np.float32

    @classmethod
    def of(cls, weight: QTensor, rows: int, *, taps: int = 1) -> "Matrix":
        """That of a layer; rows that only fill tiles up are left out.

        Args:
            weight: as the layer holds it.
            rows: outputs, of a group.
            taps: of a transposed convolution, whose rows are those of each tap in turn.
        """
        q = weight.in_rotated_basis()
        codes = np.asarray(q.codes)
        scales = np.asarray(q.block_scales).view(np.uint8)
        if len(q.axes) == 2:
            scales = scales.repeat(BLOCK, axis=-2)
        if taps > 1:
            codes, scales = (a.reshape(taps, -1, a.shape[-1]) for a in (codes, scales))
        codes, scales = (
            np.ascontiguousarray(a[..., :rows, :]).reshape(-1, a.shape[-1]) for a in (codes, scales)
        )
        scale = np.float32(np.asarray(q.amax)) / np.float32(q.bound)
        return cls(codes, scales, np.float32(scale))

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], 2 * self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + 4

    def dequantized(self) -> Any:
        """(scale * tensor scale) * code value, float32.

        Example:
            >>> codes, scales = np.full((2, 8), 0x21, np.uint8), np.full((2, 1), 0x38, np.uint8)
            >>> Matrix(codes, scales, np.float32(2)).dequantized()[0, :4]
            array([1., 2., 1., 2.], dtype=float32)
        """
        codes = np.stack([self.codes & 15, self.codes >> 4], -1).reshape(self.shape)
        scales = np.asarray(self.scales.view(jnp.float8_e4m3fn), np.float32) * self.tensor_scale
        return GRID[codes] * scales.repeat(BLOCK, -1)


#: The value of each of the 16 codes.
GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
GRID = np.concatenate([GRID, -GRID])
