"""Data: cohorts of slices, where they come from, how they are split, checked and augmented."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from fp4jax.data.cohort import Cohort as Cohort
from fp4jax.data.contents import (
    differences as differences,
    fingerprint as fingerprint,
    verify as verify,
)
from fp4jax.data.lgg import LGG_EXPECTED as LGG_EXPECTED
from fp4jax.data.splits import (
    Split as Split,
    patient_holdout as patient_holdout,
    patient_kfold as patient_kfold,
    split_folds as split_folds,
)

# name -> module with load(...), whether its first argument is a root folder, fixed options.
_LOADERS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "lgg": ("fp4jax.data.lgg", True, {}),
    "phantom": ("fp4jax.data.phantom", False, {}),
    "brats": ("fp4jax.data.nifti", True, {}),
    "msd": ("fp4jax.data.nifti", True, {"layout": "msd"}),
}


def load(name: str, root: str | os.PathLike | None = None, **options: Any) -> Cohort:
    """A cohort by name.

    Args:
        name: ``"lgg"``, the LGG MRI set (:func:`fp4jax.data.lgg.load`); ``"phantom"``, the
            synthetic cohort that needs no files (:func:`fp4jax.data.phantom.load`); ``"brats"``
            and ``"msd"``, slices of NIfTI volumes (:func:`fp4jax.data.nifti.load`) of BraTS and of
            the Medical Segmentation Decathlon.
        root: the folder of the files, for all but ``"phantom"``.
        options: of the loader, such as ``image_size``, ``channel_order`` (LGG, phantom) and
            ``target`` (BraTS, Decathlon).

    Raises:
        ValueError: an unknown name, a root that is missing or not wanted, unusable files.

    Example::

        cohort = load("lgg", "kaggle_3m", image_size=128)
        small = load("phantom", patients=12, image_size=64)
        tumours = load("brats", "MICCAI_BraTS2020_TrainingData", image_size=128)
    """
    if name not in _LOADERS:
        raise ValueError(f"No data set {name!r}; available are {', '.join(_LOADERS)}.")
    module, needs_root, fixed = _LOADERS[name]
    if needs_root and root is None:
        raise ValueError(f"{name!r} is read from files; pass root, the folder that has them.")
    if root is not None and not needs_root:
        raise ValueError(f"{name!r} reads no files; root is {str(root)!r}, leave it out.")
    for option, value in fixed.items():
        if options.setdefault(option, value) != value:
            raise ValueError(f"{name!r} has {option} {value!r}; leave {option} out.")
    loader: Callable[..., Cohort] = importlib.import_module(module).load
    return loader(root, **options) if needs_root else loader(**options)
