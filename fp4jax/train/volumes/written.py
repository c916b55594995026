"""written: what the file of a case holds, on the grid of its images, for scores to be of that.

A network may see resampled volumes, mark voxels outside of the brain, or mark regions that
contradict each other (enhancing tumour outside the whole tumour). The file has one label for each
voxel of the images' own grid. In this order:

1. the regions become a label map, and are brought to the images' grid (nearest voxel;
   probabilities linearly),
2. where the case has a brain mask, nothing outside of it is kept,
3. components below ``min_component`` ml are removed, if that is asked for,
4. the masks are those of the label map that is left, and the truth is the file's own.
"""

import dataclasses

import numpy as np

from fp4jax.data import nifti
from fp4jax.data.nifti import LoadedCase
from fp4jax.data.nifti.geometry import millilitres
from fp4jax.data.nifti.labels import region_bits, unpack_bits
from fp4jax.data.nifti.resample import resample
from fp4jax.data.nifti.volume import find_file, read_labels, read_volume, spacing_of
from fp4jax.inference import Segmentation, without_small


def written(
    case: LoadedCase, found: Segmentation, *, min_component: float = 0.0
) -> tuple[LoadedCase, Segmentation]:
    """A case and what was found in it, on the grid of its images, as a file of it says.

    Args:
        case: on any grid.
        found: in ``case.image``, on its grid.
        min_component: components of a region that are smaller, in ml, are removed.

    Raises:
        ValueError: a label map or a brain mask that cannot be read.
    """
    own = on_own_grid(case)
    # Label maps and probabilities are resampled where grids differ.
    labels = _moved(_labels(found.masks, case), case, own, linear=False)
    masks, p = _regions(labels, own), _moved(found.probabilities, case, own, linear=True)
    if case.case.mask is not None:
        inside = (read_volume(find_file(case.case.mask)).data > 0.5)[..., None]
        masks, p = masks * inside, p * inside
    if min_component > 0:
        masks = without_small(masks, min_component / millilitres(own.affine))
    return own, Segmentation(_regions(_labels(masks, own), own), p)


def on_own_grid(case: LoadedCase) -> LoadedCase:
    """A case on the grid of its files; the case itself if that is its grid."""
    geometry = case.geometry
    if case.image.shape[:3] == geometry.shape and np.allclose(case.affine, geometry.affine):
        return case
    own = dataclasses.replace(
        case, affine=geometry.affine, spacing=spacing_of(geometry.affine), target=None
    )
    image = _moved(case.image, case, own, linear=True)
    target = None
    if case.case.label is not None:
        label = read_labels(find_file(case.case.label))
        bits = region_bits(
            label.data, case.case.table, regions=case.regions, path=label.path, step=label.step
        )
        target = unpack_bits(bits, len(case.regions))
    return dataclasses.replace(own, image=image, target=target)


def _labels(masks: np.ndarray, case: LoadedCase) -> np.ndarray:
    return nifti.to_labels(masks, case.case.table, names=case.regions)


def _regions(labels: np.ndarray, case: LoadedCase) -> np.ndarray:
    return nifti.to_regions(labels, case.case.table, regions=case.regions)


def _moved(data: np.ndarray, case: LoadedCase, own: LoadedCase, *, linear: bool) -> np.ndarray:
    """From the grid of a case to the grid of its files, as label maps are written."""
    if own is case:
        return data
    steps = np.asarray(own.spacing) / np.asarray(case.spacing)
    return resample(data, case.geometry.shape, tuple(steps.tolist()), linear=linear)
