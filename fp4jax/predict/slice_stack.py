"""A NIfTI case as the slices that a 2D network was trained on, and what it finds as a volume.

As :func:`fp4jax.data.nifti.load` makes cohorts: each volume is windowed to grey levels over its
brain, cropped to the brain, turned so that anterior is on top and the left on the right, padded to
a square, and resized. Masks take the way back.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.data.nifti import Case
from fp4jax.data.nifti.prepare import bounding_box, read_case
from fp4jax.data.nifti.resample import resample
from fp4jax.data.nifti.slices import window_to_uint8
from fp4jax.data.resize import resize_images, resize_masks
from fp4jax.inference import Segmentation
from fp4jax.predict.network import Network

# Percentiles of the brain's voxels that become black and white; those of fp4jax.data.nifti.load.
WINDOW = (0.5, 99.5)


@dataclasses.dataclass(frozen=True, eq=False)
class SliceStack:
    """The axial slices of a case, and where they belong.

    Attributes:
        images: uint8 (n, size, size, c).
        shape: of the volume, its axes in RAS.
        box: the part of it that the slices show.
        rows, columns: where the part lies in the square before it is resized.
        side: of the square.
    """

    images: UInt8[np.ndarray, "n size size c"]
    shape: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    rows: slice
    columns: slice
    side: int

    @classmethod
    def of(cls, case: Case, modalities: Sequence[str], size: int) -> "SliceStack":
        """The slices of a case that show brain.

        Raises:
            ValueError: files that cannot be used.
        """
        read = read_case(dataclasses.replace(case, label=None), modalities)
        inside = np.any(read.brain, axis=0)
        x, y, z = bounding_box(inside)
        grey = [
            window_to_uint8(volume.data[x, y, z], brain[x, y, z], WINDOW)
            for volume, brain in zip(read.images, read.brain, strict=True)
        ]
        images = to_slices(np.stack(grey, axis=-1))
        height, width = images.shape[1:3]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((len(images), side, side, len(grey)), np.uint8)
        rows, columns = slice(top, top + height), slice(left, left + width)
        square[:, rows, columns] = images
        nx, ny, nz = inside.shape
        return cls(
            resize_images(square, (size, size)), (nx, ny, nz), (x, y, z), rows, columns, side
        )

    def masks(self, found: UInt8[np.ndarray, "n size size"]) -> UInt8[np.ndarray, "x y z"]:
        """Masks of the slices as a volume; nearest pixel."""
        return self._placed(resize_masks(found, (self.side, self.side)))

    def maps(self, found: Float[np.ndarray, "n size size"]) -> Float[np.ndarray, "x y z"]:
        """Probabilities of the slices as a volume; bilinear."""
        n, size = found.shape[:2]
        steps = (1.0, size / self.side, size / self.side)
        return self._placed(resample(found, (n, self.side, self.side), steps, linear=True))

    def _placed(self, squares: np.ndarray) -> np.ndarray:
        whole = np.zeros(self.shape, squares.dtype)
        whole[self.box] = to_volume(squares[:, self.rows, self.columns])
        return whole


def to_slices(volume: np.ndarray) -> np.ndarray:
    """(x, y, z, ...) in RAS -> (z, row, column, ...), anterior on top, left on the right.

    Example:
        >>> volume = np.arange(24).reshape(2, 3, 4)
        >>> bool((to_volume(to_slices(volume)) == volume).all())
        True
    """
    return np.ascontiguousarray(np.moveaxis(volume[::-1, ::-1], (0, 1, 2), (2, 1, 0)))


def to_volume(slices: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_slices`."""
    return np.moveaxis(slices, (2, 1, 0), (0, 1, 2))[::-1, ::-1]


def segment_stack(network: Network, stack: SliceStack, threshold: float) -> Segmentation:
    """The lesion in a volume, slice by slice."""
    p = np.stack([one[..., 0] for one in network.probabilities(stack.images)])
    masks = stack.masks((p >= threshold).astype(np.uint8))
    return Segmentation(masks[..., None], stack.maps(p)[..., None])
