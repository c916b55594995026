"""Volumes: one NIfTI file in memory, its axes turned to point right, anterior and superior (RAS).

Files store their axes in any order and direction; the affine says which. Axes are permuted and
flipped to the closest canonical ones (no interpolation), so that index 2 is axial everywhere, and
the header remembers how the file had them.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.core.typing import Shaped
from fp4jax.extras import Extra

SUFFIXES = (".nii", ".nii.gz")


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
        """The file's voxel indices -> mm."""
        return np.asarray(self.header.get_best_affine(), np.float64)

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
        return self.source_affine @ turn

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


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A volume in RAS.

    Attributes:
        data: (x, y, z), or (x, y, z, c) for chosen channels of a 4-D file.
        affine: float64 (4, 4), voxel indices of ``data`` -> mm.
        header: the file's header, in the file's own orientation.
        path: the file.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path

    @property
    def geometry(self) -> Geometry:
        """The file's geometry, to write results with."""
        return Geometry(self.header, self.path)

    @property
    def orientation(self) -> str:
        """Where the axes point to in the file, such as ``"LPS"``."""
        return self.geometry.orientation

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis of ``data`` in mm."""
        return spacing_of(self.affine)


def read_volume(
    path: str | os.PathLike, *, dtype: Any = np.float32, channels: tuple[int, ...] | None = None
) -> Volume:
    """Reads a NIfTI file and turns it to RAS.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, or a folder of such a name with the file in it, which
            some programs that unpack archives leave behind.
        dtype: of the data in memory; the header's slope and intercept are applied.
        channels: None for a 3-D file (further axes of length 1 are dropped); for a 4-D file which
            of the volumes along its last axis.

    Raises:
        ValueError: naming the file and the remedy, for a file that is missing, truncated or no
            NIfTI file, of the wrong dimension, with NaN or infinite values, or with an affine that
            cannot be inverted.

    Needs nibabel.

    Example::

        volume = read_volume("BraTS20_Training_001_flair.nii.gz")
        volume.data.shape, volume.spacing, volume.orientation
    """
    image = _open(find_file(path))
    file = Path(image.get_filename())
    data = _read(image, file, channels)
    if channels is None:
        data = data.reshape(data.shape[:3])
    else:
        data = data[..., np.asarray(channels, np.intp)]
    with np.errstate(over="ignore", invalid="ignore"):
        data = data.astype(dtype)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        count = int(data.size - np.isfinite(data).sum())
        raise ValueError(
            f"{file} has {count} voxels that are NaN or infinite in {data.dtype}. Find out where "
            "they come from; numpy.nan_to_num makes them background, if that is what they are."
        )
    geometry = Geometry(image.header, file)
    return Volume(np.ascontiguousarray(geometry.to_ras(data)), geometry.affine, image.header, file)


def read_geometry(path: str | os.PathLike) -> Geometry:
    """The geometry of a NIfTI file of three or four axes, without reading its voxels.

    Raises:
        ValueError: as :func:`read_volume`, as far as the header shows it.
    """
    file = find_file(path)
    return Geometry(_open(file).header, file)


def find_file(path: str | os.PathLike) -> Path:
    """The file of this name, which may be in a folder of the same name.

    Raises:
        ValueError: there is none, or several.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{path} does not exist. Check the path, or unpack the data set again.")
    inside = sorted(file for file in path.rglob("*") if file.is_file() and is_nifti_name(file.name))
    if len(inside) != 1:
        raise ValueError(
            f"{path} is a folder with {len(inside)} NIfTI files in it, not a NIfTI file. Give the "
            "path of one .nii or .nii.gz file."
        )
    return inside[0]


def is_nifti_name(name: str) -> bool:
    """Whether this is the name of a NIfTI file, and not of one that macOS or a program hid."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def spacing_of(affine: Shaped[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along each axis in mm: the lengths of the columns.

    Example:
        >>> import numpy as np
        >>> spacing_of(np.diag([-1.0, 2.0, 5.0, 1.0]))
        (1.0, 2.0, 5.0)
    """
    x, y, z = np.sqrt((np.asarray(affine, np.float64)[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def _open(file: Path) -> Any:
    """The nibabel image of a file, header checked."""
    with Extra("study"):
        import nibabel

    if not file.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{file} is not named .nii or .nii.gz; convert it to NIfTI first.")
    try:
        image = nibabel.load(file)
    except Exception as error:  # a damaged header can fail anywhere in the reader
        raise _unreadable(file, error) from error
    if not isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is a subclass
        raise ValueError(
            f"{file} holds a {type(image).__name__}, not NIfTI; convert it to NIfTI first."
        )
    affine = np.asarray(image.header.get_best_affine(), np.float64)
    if not np.isfinite(affine).all() or _is_singular(affine[:3, :3]):
        raise ValueError(
            f"{file} has an affine that cannot be inverted, {affine.tolist()}. Repair "
            "its header (sform, qform, pixdim) from the original data, for example with nibabel: "
            "image.set_sform(affine)."
        )
    return image


def _read(image: Any, file: Path, channels: tuple[int, ...] | None) -> np.ndarray:
    """The array as stored; (x, y, z, 1, ...) or, for channels, (x, y, z, c)."""
    shape = tuple(image.shape)
    if len(shape) < 3 or min(shape) < 1:
        raise ValueError(
            f"{file} has shape {shape}; a volume of three axes is needed. Stack slices to a volume "
            "first."
        )
    if channels is None and any(n != 1 for n in shape[3:]):
        raise ValueError(
            f"{file} has shape {shape}; a volume of three axes is needed. Split the file into one "
            "for each channel, or describe the set by a dataset.json (layout 'msd')."
        )
    if channels is not None and (len(shape) != 4 or not set(channels) <= set(range(shape[3]))):
        raise ValueError(
            f"{file} has shape {shape}; channels {channels} of a volume of four axes are needed. "
            "Check the modalities in dataset.json against the file."
        )
    try:
        data = np.asanyarray(image.dataobj)
    except Exception as error:  # so can damaged data
        raise _unreadable(file, error) from error
    if data.dtype.kind not in "biuf":
        raise ValueError(
            f"{file} has voxels of type {data.dtype}; numbers are needed. Convert colours or "
            "complex values to one number per voxel first."
        )
    return data


def _is_singular(matrix: np.ndarray) -> bool:
    lengths = np.linalg.norm(matrix, axis=0)
    return bool(lengths.min() == 0 or abs(np.linalg.det(matrix / lengths)) < 1e-6)


def _unreadable(file: Path, error: Exception) -> ValueError:
    size = file.stat().st_size if file.exists() else 0
    return ValueError(
        f"{file} ({size} bytes) cannot be read: truncated, damaged or not a NIfTI file "
        f"({type(error).__name__}: {error}). Copy or unpack it again."
    )
