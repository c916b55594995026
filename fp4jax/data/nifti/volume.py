"""Volumes: one NIfTI file in memory, its axes turned to point right, anterior and superior (RAS).

Files store their axes in any order and direction; the affine says which. Axes are permuted and
flipped to the closest canonical ones (no interpolation), so that index 2 is axial everywhere, and
the header remembers how the file had them.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.folders import is_clutter, walk
from fp4jax.data.nifti import contents
from fp4jax.data.nifti.geometry import Geometry, spacing_of
from fp4jax.extras import Extra
from fp4jax.files import expanded

SUFFIXES = (".nii", ".nii.gz")
_PERMISSION = "Ask for the right to read it (chmod u+r)."


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A volume in RAS.

    Attributes:
        data: (x, y, z), or (x, y, z, c) for chosen channels of a 4-D file.
        affine: float64 (4, 4), voxel indices of ``data`` -> mm.
        header: the file's header, in the file's own orientation.
        path: the file.
        step: distance of the values that the file can hold, where it scales integers; 0 elsewhere.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    path: Path
    step: float = 0.0

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


def read_labels(path: str | os.PathLike) -> Volume:
    """A label map; as :func:`read_volume`, which says other things of several channels.

    Raises:
        ValueError: as there; a map for each region along a fourth axis.
    """
    shape = read_geometry(path).source_shape
    if len(shape) == 4 and shape[3] > 1:
        raise ValueError(
            f"{path} has shape {shape}; a label map has three axes. If it is a mask of each region "
            "along the last, write one map of numbers: nibabel.Nifti1Image((masks * numpy.arange("
            f"1, {shape[3] + 1})).max(-1).astype('uint8'), affine), where larger numbers win."
        )
    return read_volume(path)


def read_volume(
    path: str | os.PathLike, *, dtype: Any = np.float32, channels: tuple[int, ...] | None = None
) -> Volume:
    """Reads a NIfTI file and turns it to RAS.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, compressed or not whatever its name is, or a folder of
            such a name with the file in it, which some programs that unpack archives leave behind.
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
    file = find_file(path)
    image = _open(file)
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
    ras = np.ascontiguousarray(geometry.to_ras(data))
    return Volume(ras, geometry.affine, image.header, file, _step(image))


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
        ValueError: there is none, or several; a folder that may not be read.
    """
    path = expanded(path) or Path()
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). {_PERMISSION}") from error
    if path.is_symlink() and not is_folder:
        raise ValueError(
            f"{path} is a link to {os.readlink(path)}, which does not exist. Check where the data "
            "are, or copy them with cp -L."
        )
    if not is_folder:
        raise ValueError(f"{path} does not exist. Check the path, or unpack the data set again.")
    inside = [
        folder / name for folder, _, names in walk(path) for name in names if is_nifti_name(name)
    ]
    if len(inside) != 1:
        raise ValueError(
            f"{path} is a folder with {len(inside)} NIfTI files in it, not a NIfTI file. Give the "
            "path of one .nii or .nii.gz file."
        )
    return inside[0]


def is_nifti_name(name: str) -> bool:
    """Whether this is the name of a NIfTI file, and not of one that macOS or a program hid."""
    return name.lower().endswith(SUFFIXES) and not is_clutter(name)


def stem(name: str) -> str:
    """A file's name without ``.nii`` or ``.nii.gz``.

    Example:
        >>> stem("a.NII.gz"), stem("b.nii")
        ('a', 'b')
    """
    for suffix in reversed(SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _open(file: Path) -> Any:
    """The nibabel image of a file, header checked."""
    with Extra("study"):
        import nibabel

    if not file.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{file} is not named .nii or .nii.gz; convert it to NIfTI first.")
    try:
        if contents.is_as_named(file):
            image = nibabel.load(file)
        else:
            image = _of_bytes(contents.content(file))
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


def _of_bytes(data: bytes) -> Any:
    """The image in a file's content, by the length of the header that it begins with."""
    with Extra("study"):
        import nibabel

    sizes = {data[:4], data[3::-1]}
    nifti2 = (540).to_bytes(4, "little") in sizes
    return (nibabel.Nifti2Image if nifti2 else nibabel.Nifti1Image).from_bytes(data)


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


def _step(image: Any) -> float:
    """Between neighbouring values of a file; 0 if it holds them as they are."""
    scaled = image.get_data_dtype().kind in "iu" and (image.dataobj.slope, image.dataobj.inter)
    return abs(float(image.dataobj.slope)) if scaled and scaled != (1, 0) else 0.0


def _is_singular(matrix: np.ndarray) -> bool:
    lengths = np.linalg.norm(matrix, axis=0)
    return bool(lengths.min() == 0 or abs(np.linalg.det(matrix / lengths)) < 1e-6)


def _unreadable(file: Path, error: Exception) -> ValueError:
    if isinstance(error, PermissionError):
        return ValueError(f"{file} cannot be read ({error.strerror}). {_PERMISSION}")
    other = contents.other_kind(file)
    if other is not None:
        return ValueError(f"{file} is not a NIfTI file but {other}.")
    size = file.stat().st_size if file.exists() else 0
    text = " ".join(str(error).split())
    return ValueError(
        f"{file} ({size} bytes) cannot be read: truncated, damaged or not a NIfTI file "
        f"({type(error).__name__}: {text}). Copy or unpack it again."
    )
