"""From files to arrays: one case read, checked, normalised, resampled, cropped and rounded."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fp4jax.data.nifti.case import Case
from fp4jax.data.nifti.geometry import apart
from fp4jax.data.nifti.labels import region_bits
from fp4jax.data.nifti.resample import Three, resample, resampled_affine, resampled_shape
from fp4jax.data.nifti.volume import Volume, read_labels, read_volume, spacing_of

#: Part of every cache's key: raise it with each change that changes a voxel.
VERSION = 1

_TOLERANCE = 1e-3  # mm
# Headers of one grid differ by rounding: qform and sform, other programs, edges of 0.9999 mm.
_APART = 0.05  # of a voxel


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A case as it is cached: the box around the brain, axial slices first.

    Attributes:
        image: float16 (z, x, y, c), z-scores, background 0. z-scores of n voxels are below
            sqrt(n), far from float16's limit, and are rounded by 0.05 % at most.
        bits: uint8 (z, x, y), region r in bit r; None without a label map.
        foreground: for each region the voxels in it, as indices into ``bits.ravel()``.
        shape: (x, y, z) of the whole volume; outside the box everything is 0.
        offset: (x, y, z) of the box in it.
        affine, spacing: of the whole volume, in RAS.
    """

    image: np.ndarray
    bits: np.ndarray | None
    foreground: tuple[np.ndarray, ...]
    shape: tuple[int, int, int]
    offset: tuple[int, int, int]
    affine: np.ndarray
    spacing: Three

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where the box lies in the whole volume, axes x, y, z."""
        nz, nx, ny = self.image.shape[:3]
        x, y, z = (slice(o, o + n) for o, n in zip(self.offset, (nx, ny, nz), strict=True))
        return x, y, z


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """The volumes of a case in RAS, on one grid."""

    images: list[Volume]
    label: Volume | None
    brain: list[np.ndarray]


def read_case(case: Case, modalities: Sequence[str]) -> Read:
    """Reads the images, the label map and the brain mask of a case.

    Raises:
        ValueError: files that cannot be used, or whose shapes differ, or whose voxels lie apart by
            more than a twentieth of one.
    """
    images = _images(case, modalities)
    first = images[0]
    for other in images[1:]:
        _check_same_grid(first, other, "The images")
    label = None
    if case.label is not None:
        label = read_labels(case.label)
        _check_same_grid(first, label, "Image and label map")
    if case.mask is not None:
        mask = read_volume(case.mask)
        _check_same_grid(first, mask, "Image and brain mask")
        brain = [mask.data > 0.5] * len(images)
    else:
        brain = [foreground(image.data) for image in images]
    for image, inside, name in zip(images, brain, modalities, strict=True):
        values = image.data[inside]
        if not values.size or values.min() == values.max():
            raise ValueError(
                f"{image.path}: the {name} image of case {case.id} has no contrast, its "
                f"{values.size} voxels in the brain are all equal. Replace the file, or leave the "
                "case out."
            )
    return Read(images, label, brain)


def prepare(
    case: Case, modalities: Sequence[str], regions: Sequence[str], spacing: Three | None
) -> Prepared:
    """A case as arrays; see :class:`~fp4jax.data.nifti.VolumeSet` for what is done.

    Raises:
        ValueError: files that cannot be used, named, with the remedy.
    """
    read = read_case(case, modalities)
    reference = read.images[0]
    image = np.zeros((*reference.data.shape, len(read.images)), np.float32)
    for c, (volume, inside) in enumerate(zip(read.images, read.brain, strict=True)):
        values = volume.data[inside]
        mean, sd = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        image[inside, c] = (values - np.float32(mean)) / np.float32(sd)
    bits = None
    if read.label is not None:
        bits = region_bits(
            read.label.data,
            case.layout if case.labels is None else case.labels,
            regions=regions,
            path=read.label.path,
            step=read.label.step,
        )
    affine, old = reference.affine, reference.spacing
    shape = image.shape[:3]
    if spacing is not None and not np.allclose(old, spacing, rtol=0, atol=_TOLERANCE):
        new_shape = resampled_shape(shape, old, spacing)
        steps = tuple(new / was for new, was in zip(spacing, old, strict=True))
        affine = resampled_affine(affine, shape, new_shape, spacing)
        image = resample(image, new_shape, steps, linear=True)
        bits = None if bits is None else resample(bits, new_shape, steps, linear=False)
    return _cropped(image, bits, len(regions), affine)


def foreground(data: np.ndarray) -> np.ndarray:
    """The voxels that are not background, bool (x, y, z).

    Background is 0, as in skull-stripped images, unless all eight corners of the volume have one
    other value, as they do where images were normalised after stripping, and in CT.

    Example:
        >>> import numpy as np
        >>> data = np.full((3, 3, 3), -2.5)
        >>> data[1, 1, 1] = 0.0
        >>> int(foreground(data).sum())
        1
    """
    corners = data[:: max(1, data.shape[0] - 1), :: max(1, data.shape[1] - 1)]
    corners = corners[..., :: max(1, data.shape[2] - 1)]
    value = corners.flat[0] if (corners == corners.flat[0]).all() else 0
    inside = data != value
    return inside if inside.any() else data != 0


def bounding_box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box with all that is True in it; everything if nothing is.

    Example:
        >>> import numpy as np
        >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]]) > 0)
        (slice(1, 2, None), slice(1, 3, None))
    """
    box = []
    for axis in range(inside.ndim):
        rest = tuple(other for other in range(inside.ndim) if other != axis)
        where = np.flatnonzero(inside.any(axis=rest))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(None))
    return tuple(box)


def _images(case: Case, modalities: Sequence[str]) -> list[Volume]:
    """The modalities in order; a file with several of them is read once."""
    wanted = [case.image(name) for name in modalities]
    channels: dict[Path, list[int]] = {}
    for path, index in wanted:
        if index is not None:
            channels.setdefault(path, []).append(index)
    several = {path: read_volume(path, channels=tuple(ids)) for path, ids in channels.items()}
    images = []
    for path, index in wanted:
        if index is None:
            images.append(read_volume(path))
        else:
            data = several[path].data[..., channels[path].index(index)]
            images.append(dataclasses.replace(several[path], data=data))
    return images


def _check_same_grid(image: Volume, other: Volume, what: str) -> None:
    if image.data.shape != other.data.shape:
        difference = f"have shapes {image.data.shape} and {other.data.shape} (in RAS)"
    elif apart(image.affine, other.affine, image.data.shape) > _APART:
        largest = np.abs(image.affine - other.affine).max()
        difference = f"have affines that differ by up to {largest:.4g}"
    else:
        return
    raise ValueError(
        f"{what} do not lie on the same grid: {image.path} and {other.path} {difference}. If the "
        "voxels belong together, correct the header, nibabel.Nifti1Image(other.dataobj, "
        "image.affine); else resample one onto the other with "
        "nibabel.processing.resample_from_to(other, image, order=0)."
    )


def _cropped(image: np.ndarray, bits: np.ndarray | None, k: int, affine: np.ndarray) -> Prepared:
    shape = image.shape[0], image.shape[1], image.shape[2]
    inside = np.asarray(image.any(axis=-1))
    if bits is not None:
        inside |= bits > 0
    box = bounding_box(inside)
    x, y, z = (part.indices(n)[0] for part, n in zip(box, shape, strict=True))
    image = np.ascontiguousarray(np.moveaxis(image[box], 2, 0).astype(np.float16))
    voxels = ()
    if bits is not None:
        bits = np.ascontiguousarray(np.moveaxis(bits[box], 2, 0))
        flat = bits.ravel()
        kind = np.int32 if flat.size < 2**31 else np.int64
        voxels = tuple(np.flatnonzero(flat & np.uint8(1 << r)).astype(kind) for r in range(k))
    return Prepared(image, bits, voxels, shape, (x, y, z), affine, spacing_of(affine))
