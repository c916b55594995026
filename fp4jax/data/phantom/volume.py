"""Volume: maps on a regular grid of millimetres, read between the voxels."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """c maps on one grid.

    Attributes:
        maps: (n_x, n_y, n_z, c), any dtype; the axes are right, anterior, superior.
        origin: coordinates of voxel (0, 0, 0), mm.
        spacing: edge of a voxel, mm.
    """

    maps: np.ndarray
    origin: tuple[float, float, float]
    spacing: float

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates along each axis, mm, shaped so that they broadcast to the grid."""
        x, y, z = (
            (origin + self.spacing * np.arange(n)).astype(np.float32)
            for origin, n in zip(self.origin, self.maps.shape[:3], strict=True)
        )
        return x[:, None, None], y[:, None], z

    def inside(self, points: np.ndarray) -> np.ndarray:
        """bool (n,): which of the (3, n) points lie between voxels."""
        answer = np.ones(points.shape[1], bool)
        for axis in range(3):
            high = self.origin[axis] + self.spacing * (self.maps.shape[axis] - 1)
            answer &= (points[axis] > self.origin[axis]) & (points[axis] < high)
        return answer

    def sample(self, points: np.ndarray) -> np.ndarray:
        """The maps at (3, n) points, mm, trilinear: float32 (c, n). Constant outside the grid."""
        cells, fractions = [], []
        for axis in range(3):
            size = self.maps.shape[axis]
            position = (points[axis] - np.float32(self.origin[axis])) / np.float32(self.spacing)
            position = np.clip(position, 0, size - 1)
            cell = np.minimum(position.astype(np.int32), size - 2)
            cells.append(cell)
            fractions.append(position - cell)
        _, n_y, n_z, channels = self.maps.shape
        flat = np.ascontiguousarray(self.maps).reshape(-1, channels)
        base = (cells[0] * n_y + cells[1]) * n_z + cells[2]
        x, y, z = fractions
        out = np.zeros((channels, points.shape[1]), np.float32)
        for corner in range(8):
            i, j, k = corner >> 2, corner >> 1 & 1, corner & 1
            weight = (x if i else 1 - x) * (y if j else 1 - y) * (z if k else 1 - z)
            values = flat[base + ((i * n_y + j) * n_z + k)]
            for c in range(channels):
                out[c] += weight * values[:, c]
        return out
