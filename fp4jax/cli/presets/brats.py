"""Studies of volumes."""

import dataclasses
from pathlib import Path

from fp4jax.cli.presets.preset import Preset
from fp4jax.data import phantom
from fp4jax.data.phantom.cache import default_folder
from fp4jax.files import replacing_folder
from fp4jax.study import Expectation, Study
from fp4jax.train import Source, Volumes

# Of the synthetic volumes.
_PATIENTS, _SLICES, _SIZE = 16, 32, 48


def brats_demo() -> Preset:
    """A 3D U-Net under recipes baseline and 2d+rht+sr, two folds, on synthetic volumes.

    Reference: the paper's question of volumes, in miniature: patients of the phantom as NIfTI files
    like BraTS', which are written to the cache folder, or to --root, where they are not there.
    Cost: 4 runs, 2 minutes on two CPU cores.
    Expected: a test AUPRC of at least 0.5 for the baseline, else comparing recipes says nothing.
    Command: fp4jax study brats-demo
    """
    study = Study(
        Volumes(patch_size=(32, 32, 32), steps=40, overlap=0.25),
        archs=("unet",),
        scales=("500k",),
        recipes=("baseline", "2d+rht+sr"),
        splits=("cv",),
        folds=2,
        epochs=6,
        batch_size=2,
        learning_rate=3e-3,
    )
    source = "needed for a comparison"
    expected = (Expectation("unet", "500k", "baseline", 0.5, 1.0, source),)
    return Preset(study, expected=expected, prepare=_phantom)


def brats_cv() -> Preset:
    """Swin UNETR at 4m under recipes 0, 1, 2 and 5, five folds of BraTS.

    Reference: none published: the paper's question asked of a 3D network, patches of 96^3.
    Cost: 20 runs of 100 epochs of 250 steps: days on one GPU; stop and repeat it as you like.
    Expected: no published numbers; if what the paper says of Swin holds in 3D, every recipe is
    within 5 % of the baseline.
    Command: fp4jax study brats-cv --root BraTS2023
    """
    study = Study(
        Volumes(),
        archs=("swin_unetr",),
        scales=("4m",),
        recipes=("0", "1", "2", "5"),
        splits=("cv",),
    )
    robust = "the paper: Swin is the most robust"
    expected = tuple(
        Expectation("swin_unetr", "4m", label, 95, 105, robust, percent=True)
        for label in study.recipes[1:]
    )
    return Preset(study, expected=expected)


def _phantom(source: Source) -> Source:
    """Synthetic patients, written once; a root that has files is taken as it is."""
    root = source.root or _default_root()
    if not root.is_dir() or not any(root.iterdir()):
        with replacing_folder(root, keep_existing=True) as temporary:
            phantom.write_nifti(temporary, _PATIENTS, _SLICES, _SIZE)
    return dataclasses.replace(source, root=root)


def _default_root() -> Path:
    return default_folder() / f"brats_demo_{_PATIENTS}x{_SLICES}x{_SIZE}"
