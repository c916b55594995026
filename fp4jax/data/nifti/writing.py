"""save_prediction: a result as NIfTI that overlays the image it was made from."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data.nifti.resample import resample
from fp4jax.data.nifti.volume import SUFFIXES
from fp4jax.data.nifti.volume_set import LoadedCase
from fp4jax.extras import Extra
from fp4jax.files import expanded, replacing


def save_prediction(
    path: str | os.PathLike, prediction: Any, case: LoadedCase, *, overwrite: bool = False
) -> Path:
    """Writes a label map or probabilities on the source's own grid.

    The array is brought back to the source's spacing (label maps by nearest neighbour,
    probabilities linearly) and turned back to its orientation. The file has the source's header:
    affine, qform and sform with their codes, units and description. Only what describes the values
    is new: the type, slope 1 and intercept 0, no display range.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        prediction: on the grid of ``case.image``, an array of NumPy or JAX: a label map
            (x, y, z) of integers or booleans (see :func:`~fp4jax.data.nifti.to_labels`), or
            floating probabilities (x, y, z), or (x, y, z, k) of either kind, which gives a 4-D
            file.
        case: what :meth:`fp4jax.data.nifti.VolumeSet.load` returned.
        overwrite: replace a file that exists. A source file of the case never is.

    Returns:
        The path.

    Raises:
        ValueError: another shape; NaN or infinite values; labels beyond int32; a file that exists;
            another suffix.

    Needs nibabel.

    Example::

        case = volumes.load(0)
        masks = predict(case.image) > 0.5            # (x, y, z, 3)
        save_prediction("out/case.nii.gz", to_labels(masks, case.case.table), case)
    """
    with Extra("study"):
        import nibabel

    path = expanded(path) or Path()
    _check_path(path, case, overwrite)
    data = _checked(np.asarray(prediction), case, path)
    geometry = case.geometry
    if case.image.shape[:3] != geometry.shape or not np.allclose(case.affine, geometry.affine):
        source = np.sqrt((geometry.affine[:3, :3] ** 2).sum(axis=0))
        steps = tuple((source / np.asarray(case.spacing)).tolist())
        linear = data.dtype.kind == "f"
        data = resample(data, geometry.shape, steps, linear=linear)
    data = np.asfortranarray(geometry.from_ras(data))
    header = geometry.header.copy()
    header.set_data_dtype(data.dtype)
    header["cal_min"] = header["cal_max"] = 0
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(data, geometry.source_affine, header)  # an equal affine leaves qform and sform
    image.header.set_slope_inter(1, 0)
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)  # the same bytes each time
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _check_path(path: Path, case: LoadedCase, overwrite: bool) -> None:
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path} must be named .nii or .nii.gz.")
    sources = [file for _, file, _ in case.case.images] + [case.case.label, case.case.mask]
    if path.exists() and any(
        file is not None and file.exists() and path.samefile(file) for file in sources
    ):
        raise ValueError(f"{path} is a source file of case {case.id}; choose another name.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or pass overwrite=True.")


def _checked(data: np.ndarray, case: LoadedCase, path: Path) -> np.ndarray:
    """The prediction as uint8, int16, int32 or float32."""
    shape = case.image.shape[:3]
    if data.shape[:3] != shape or data.ndim not in (3, 4):
        raise ValueError(
            f"{path}: the prediction has shape {data.shape}; {shape}, or that and channels, is "
            f"needed: the grid of case {case.id}, without batch axis or padding."
        )
    if data.dtype.kind == "b":
        return data.astype(np.uint8)
    if data.dtype.kind in "iu":
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        for kind in (np.uint8, np.int16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return data.astype(kind)
        raise ValueError(f"{path}: labels from {low} to {high} do not fit into int32.")
    data = data.astype(np.float32)  # bfloat16 as well, which NIfTI has not
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise ValueError(
            f"{path}: {count} of the probabilities are NaN or infinite. Check the network's "
            "parameters and its input."
        )
    return data
