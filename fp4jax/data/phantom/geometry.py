"""Geometry: the slices of a scan, and the head that lies in it.

A pixel at p (patient millimetres) shows the template's point

    T(p) = A p + shift + f_brain(p) + f_gyri(p)

with an affine map A (rotation, scale) and two B-spline deformations, of the brain's shape and of
its gyri.
"""

import dataclasses

import numpy as np

from fp4jax.data.phantom import fields

# Centre of the template's head, mm: heads turn and grow about it.
_CENTRE = np.array([0.0, -16.0, 5.0])


@dataclasses.dataclass(frozen=True)
class Grid:
    """Size of a scan: axial slices of square images, from below the cerebellum to the scalp.

    Example:
        >>> Grid(slices=16, image_size=64).shape
        (16, 64, 64)
    """

    slices: int = 30
    image_size: int = 128

    def __post_init__(self) -> None:
        for field, least in (("slices", 4), ("image_size", 16)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{field} is {value!r}; use an integer of at least {least}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.slices, self.image_size, self.image_size


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """One patient's head in one scan.

    Attributes:
        axes: patient coordinates of slices, rows and columns, mm. Row 0 is anterior and column 0
            is the patient's right, as radiologists look at it.
        spacing: distances of slices, rows and columns, mm.
        linear: 3 x 3, and centre: A p + shift = linear @ (p - centre) + centre + shift.
        shift: mm.
        shape: coefficients of the brain's deformation, (6, 6, 6, 3).
        gyri: coefficients of the gyri's deformation, (12, 16, 16, 3).
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    spacing: tuple[float, float, float]
    linear: np.ndarray
    shift: np.ndarray
    shape: np.ndarray
    gyri: np.ndarray

    def affine(self) -> np.ndarray:
        """4 x 4: voxel indices (column, row, slice) to patient mm, right-anterior-superior."""
        thickness, height, width = self.spacing
        matrix = np.diag([-width, -height, thickness, 1.0])
        matrix[:3, 3] = self.axes[2][0], self.axes[1][0], self.axes[0][0]
        return matrix

    def template_points(self) -> np.ndarray:
        """T(p) of all pixels: float32 (3, slices, rows, columns), mm."""
        z, y, x = self.axes
        warp = fields.evaluate(self.shape, self.axes) + fields.evaluate(self.gyri, self.axes)
        points = np.empty((3, len(z), len(y), len(x)), np.float32)
        for a in range(3):
            row = self.linear[a]
            along = [
                (row[b] * (axis - _CENTRE[b])).astype(np.float32)
                for b, axis in enumerate((x, y, z))
            ]
            offset = np.float32(_CENTRE[a] + self.shift[a])
            plane = along[0] + along[1][:, None] + offset
            points[a] = warp[..., a] + (plane + along[2][:, None, None])
        return points


def draw_geometry(grid: Grid, rng: np.random.Generator) -> Geometry:
    """A head of random pose, size and shape, in a random field of view (222 to 250 mm)."""
    field_of_view = rng.uniform(222, 250)
    bottom, top = rng.uniform(-62, -48), rng.uniform(82, 94)
    pixel = field_of_view / grid.image_size
    across = (np.arange(grid.image_size) - (grid.image_size - 1) / 2) * pixel
    axes = (
        np.linspace(bottom, top, grid.slices),
        _CENTRE[1] - across,
        _CENTRE[0] - across,
    )
    angles = np.deg2rad(rng.normal(0, (4.0, 4.0, 5.0)))
    scales = rng.normal(1, 0.05, 3).clip(0.88, 1.12)
    shift = rng.normal(0, 4, 3).clip(-9, 9)
    shape = fields.control_points(rng, (6, 6, 6, 3), rng.uniform(2, 4))
    gyri = fields.control_points(rng, (12, 16, 16, 3), rng.uniform(0.8, 1.6))
    return Geometry(
        axes=axes,
        spacing=((top - bottom) / (grid.slices - 1), pixel, pixel),
        # Larger heads reach the same template point at larger p.
        linear=_rotation(angles) @ np.diag(1 / scales),
        shift=shift,
        shape=shape,
        gyri=gyri,
    )


def _rotation(angles: np.ndarray) -> np.ndarray:
    """About x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i] = np.sin(angle)
        turn[i, j] = -turn[j, i]
        matrix = turn @ matrix
    return matrix
