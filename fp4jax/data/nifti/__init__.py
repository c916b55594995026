"""NIfTI volumes: BraTS, the Decathlon, nnU-Net, BIDS, and folders of one's own.

    find_cases (names of files) -> VolumeSet (arrays, cached) -> PatchSampler (batches)
                                -> load (axial slices as a Cohort)
    network -> to_labels -> save_prediction (the source's grid, orientation and header)

Every axis order and direction is turned to RAS when read and turned back when written. Reading and
writing need nibabel.
"""

from fp4jax.data.nifti.brats import MODALITIES as MODALITIES
from fp4jax.data.nifti.case import Case as Case
from fp4jax.data.nifti.cases import find_cases as find_cases
from fp4jax.data.nifti.geometry import Geometry as Geometry
from fp4jax.data.nifti.labels import (
    LABELS as LABELS,
    REGIONS as REGIONS,
    to_labels as to_labels,
    to_regions as to_regions,
)
from fp4jax.data.nifti.sampler import PatchSampler as PatchSampler
from fp4jax.data.nifti.slices import load as load
from fp4jax.data.nifti.volume import (
    Volume as Volume,
    read_geometry as read_geometry,
    read_volume as read_volume,
)
from fp4jax.data.nifti.volume_set import LoadedCase as LoadedCase, VolumeSet as VolumeSet
from fp4jax.data.nifti.writing import save_prediction as save_prediction
