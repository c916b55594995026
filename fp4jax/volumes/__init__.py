"""Volumes: training and evaluation on NIfTI cases, in 3D or slice by slice.

run = VolumeRun(arch="swin_unetr", recipe="2d+rht+sr", patch_size=(96, 96, 96))
folder = train(run, Source(Path("BraTS2023")), Path("runs"))
segment(from_run(folder.path), Source(Path("new cases")), Path("masks"))
"""

from fp4jax.volumes.cases import Source as Source
from fp4jax.volumes.config import VolumeRun as VolumeRun
from fp4jax.volumes.inference import Segmenter as Segmenter
from fp4jax.volumes.program import Program as Program
from fp4jax.volumes.rehearsal import dry_run as dry_run
from fp4jax.volumes.run import train as train
from fp4jax.volumes.segmentation import (
    from_run as from_run,
    from_weights as from_weights,
    segment as segment,
)
