"""The task of volumes: NIfTI cases, in 3D or slice by slice, with one region or several."""

from fp4jax.train.volumes.data import VolumeData as VolumeData
from fp4jax.train.volumes.task import Volumes as Volumes
