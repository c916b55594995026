"""Geometry: the header of a NIfTI file as the place of its voxels, in mm and turned to RAS."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.core.typing import Shaped
from fp4jax.extras import Extra


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a NIfTI file lie: all of it but the voxels.

    Attributes:
        header: the file's header (nibabel), which holds qform, sform and their codes.
        path: the file.
    """

    header: Any
    path: Path

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Shape in the file, three axes and more for several channels."""
        return tuple(int(n) for n in self.header.get_data_shape())

    @functools.cached_property
    def source_affine(self) -> np.ndarray:
        """The file's voxel indices -> its own unit of length, which is mm nearly always."""
        return np.asarray(self.header.get_best_affine(), np.float64)

    @property
    def unit(self) -> float:
        """The file's unit of length in mm.

        Headers that name metres or micrometres are believed where the voxels have edges of 1 µm to
        100 mm then, and not without: many name a unit that their numbers are not in.
        """
        claimed = {"meter": 1e3, "micron": 1e-3}.get(self.header.get_xyzt_units()[0], 1.0)
        edges = np.sqrt((self.source_affine[:3, :3] ** 2).sum(axis=0))
        plausible = edges.min() * claimed >= 1e-3 and edges.max() * claimed <= 100
        return claimed if plausible else 1.0

    @functools.cached_property
    def _orientation(self) -> np.ndarray:
        with Extra("study"):
            import nibabel

        return nibabel.orientations.io_orientation(self.source_affine)

    @property
    def orientation(self) -> str:
        """Where the file's axes point to, such as ``"LPS"``."""
        with Extra("study"):
            import nibabel

        return "".join(nibabel.orientations.ornt2axcodes(self._orientation))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the three axes after turning to RAS."""
        shape = [0, 0, 0]
        for source, target in enumerate(self._orientation[:, 0].astype(int)):
            shape[target] = self.source_shape[source]
        return shape[0], shape[1], shape[2]

    @functools.cached_property
    def affine(self) -> np.ndarray:
        """Voxel indices after turning to RAS -> mm."""
        with Extra("study"):
            import nibabel

        turn = nibabel.orientations.inv_ornt_aff(self._orientation, self.source_shape[:3])
        return np.diag([self.unit] * 3 + [1.0]) @ self.source_affine @ turn

    def to_ras(self, data: np.ndarray) -> np.ndarray:
        """An array in the file's axes, turned to RAS; channels stay last."""
        with Extra("study"):
            import nibabel

        return nibabel.orientations.apply_orientation(data, self._orientation)

    def from_ras(self, data: np.ndarray) -> np.ndarray:
        """An array in RAS, turned back to the file's axes."""
        with Extra("study"):
            import nibabel

        ras = np.array([[0, 1], [1, 1], [2, 1]])
        back = nibabel.orientations.ornt_transform(ras, self._orientation)
        return nibabel.orientations.apply_orientation(data, back)


def millilitres(affine: Shaped[np.ndarray, "4 4"]) -> float:
    """The volume of a voxel: |det A| / 1000, which is less than the product of its edges where axes
    are not at right angles, as in CT with a tilted gantry.

    Example:
        >>> import numpy as np
        >>> millilitres(np.diag([-1.0, 2.0, 5.0, 1.0]))
        0.01
    """
    x, y, z = np.asarray(affine, np.float64)[:3, :3].T
    return float(abs(np.dot(np.cross(x, y), z)) / 1000)  # exact for axes at right angles


def apart(
    a: Shaped[np.ndarray, "4 4"], b: Shaped[np.ndarray, "4 4"], shape: Sequence[int]
) -> float:
    """How far two grids of one shape are apart at most, as a share of the shortest edge of a voxel.

    Affines are compared where the voxels are, at the corners: rounding of one number moves voxels
    of a large volume far, and another not at all.

    Example:
        >>> import numpy as np
        >>> moved = np.eye(4)
        >>> moved[0, 3] = 0.25
        >>> apart(np.eye(4), moved, (9, 9, 9))
        0.25
    """
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], [1.0], indexing="ij"), -1)
    moved = (ends.reshape(-1, 4) @ (np.asarray(a) - np.asarray(b)).T)[:, :3]
    return float(np.linalg.norm(moved, axis=1).max() / min(spacing_of(a)))


def spacing_of(affine: Shaped[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along each axis in mm: the lengths of the columns.

    Example:
        >>> import numpy as np
        >>> spacing_of(np.diag([-1.0, 2.0, 5.0, 1.0]))
        (1.0, 2.0, 5.0)
    """
    x, y, z = np.sqrt((np.asarray(affine, np.float64)[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z
