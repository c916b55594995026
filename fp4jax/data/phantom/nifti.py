"""write_nifti: phantom patients as a folder of NIfTI files, laid out like BraTS 2023."""

import concurrent.futures
import gzip
import os
from pathlib import Path

import numpy as np

from fp4jax.data.phantom.geometry import Grid
from fp4jax.data.phantom.loading import _cores
from fp4jax.data.phantom.record import Patient, patient
from fp4jax.data.progress import track
from fp4jax.extras import Extra
from fp4jax.files import expanded, replacing

#: Ends of the files' names by contrast, as BraTS 2023 calls them.
SUFFIXES = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}


def write_nifti(
    root: str | os.PathLike,
    patients: int = 12,
    slices: int = 32,
    image_size: int = 64,
    seed: int = 2026,
) -> list[Path]:
    """Writes phantom patients as NIfTI files: data to try 3D training with, without a download.

    For patient i a folder ``BraTS-GLI-0000i-000`` with ``-t1n``, ``-t1c``, ``-t2w``, ``-t2f`` and
    ``-seg`` (``.nii.gz``, int16 and uint8), skull-stripped: exactly 0 outside of the brain, as in
    BraTS. The files' headers say "phantom". Labels: 1 solid or necrotic core, 2 oedema and
    infiltration, 3 enhancing. Equal arguments give equal bytes.

    Args:
        root: the folder to write to; made if it is not there.
        patients: number of patients.
        slices: axial slices, at least 4; about 145 mm in all.
        image_size: width and height in voxels, at least 16; 222 to 250 mm.
        seed: other seeds are other patients.

    Returns:
        The patients' folders.

    Raises:
        ValueError: a number out of its range, or a folder that is not empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     (folder,) = write_nifti(root, patients=1, slices=8, image_size=32)
        ...     len(list(folder.iterdir()))
        5
    """
    root = expanded(root) or Path()
    grid = Grid(slices, image_size)
    for name, value, least in (("patients", patients, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; use an integer of at least {least}.")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists and is not empty; name a new folder for the patients.")
    root.mkdir(parents=True, exist_ok=True)

    def make(index: int) -> Path:
        return _write(root, patient(index, seed, slices=grid.slices, image_size=image_size))

    with concurrent.futures.ThreadPoolExecutor(min(_cores(), patients)) as pool:
        made = pool.map(make, range(patients))
        return list(track(made, "Writing phantom patients", total=patients))


def _write(root: Path, one: Patient) -> Path:
    folder = root / f"BraTS-GLI-{one.index:05d}-000"
    folder.mkdir(exist_ok=True)
    volumes = {
        suffix: (one.images[contrast] * one.brain).astype(np.int16)
        for contrast, suffix in SUFFIXES.items()
    }
    for suffix, volume in {**volumes, "seg": one.labels}.items():
        path = folder / f"{folder.name}-{suffix}.nii.gz"
        with replacing(path) as temporary:
            temporary.write_bytes(_encode(volume, one.affine))
    return folder


def _encode(volume: np.ndarray, affine: np.ndarray) -> bytes:
    """A compressed NIfTI file of a volume (slices, rows, columns)."""
    with Extra("study"):
        import nibabel

    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"fp4jax phantom, no patient"
    # Without the time, so that the bytes repeat.
    return gzip.compress(image.to_bytes(), 6, mtime=0)
