"""Axial slices of NIfTI volumes as a Cohort, for the 2-D networks.

A volume becomes uint8 by a window of its own, is cropped to the brain, padded to a square and
resized. Slices are written to disk one case after the other and mapped into memory, so that a set
may be larger than memory.
"""

import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from fp4jax.data.cohort import _FORMAT, Cohort
from fp4jax.data.nifti.case import Case, canonical_all
from fp4jax.data.nifti.cases import find_cases
from fp4jax.data.nifti.labels import check_regions, region_bits
from fp4jax.data.nifti.npy_writer import NpyWriter
from fp4jax.data.nifti.persons import joined
from fp4jax.data.nifti.pool import check_workers, ordered
from fp4jax.data.nifti.prepare import bounding_box, read_case
from fp4jax.data.nifti.store import signature
from fp4jax.data.phantom import cache as disk
from fp4jax.data.problems import listed, refuse
from fp4jax.data.progress import track
from fp4jax.data.resize import check_image_size, resize_images, resize_masks
from fp4jax.files import expanded, replacing_folder

#: Part of the cache's key: raise it with every change that changes a pixel.
VERSION = 2

_MOST_WORKERS = 4
_REMEDY = (
    'Repair or replace these files, or pass on_error="skip" to leave the cases out with a warning.'
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Slices:
    images: np.ndarray
    masks: np.ndarray
    z: np.ndarray
    depth: int


def load(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    target: str = "whole_tumour",
    modalities: Mapping[str, str] | Sequence[str] | None = None,
    image_size: int | None = None,
    window: tuple[int | float, int | float] = (0.5, 99.5),
    label: str | None = None,
    labels: str | Mapping[str, Collection[int]] | None = None,
    mask: str | None = None,
    patient_pattern: str | None = None,
    cache: str | os.PathLike | bool | None = None,
    workers: int | None = None,
    on_error: str = "raise",
) -> Cohort:
    """All axial slices that show brain, of all cases with a label map, as a :class:`Cohort`.

    Grey level g of value v is g = round(255 (v - lo) / (hi - lo)), clipped, with lo and hi the
    ``window`` percentiles of that volume's voxels in the brain; background is 0. Pictures are in
    radiological convention: anterior on top, the patient's left on the right. ``patient_ids`` are
    those of patients, not of examinations, so that no split divides a patient
    (:mod:`fp4jax.data.patients`; images that are there twice make one patient of two, with a
    warning). ``slice_index`` is the index z in RAS; a patient's further examinations count on from
    the first.

    Args:
        root, layout, modalities, label, labels, mask, patient_pattern: as for
            :func:`~fp4jax.data.nifti.find_cases`; the modalities become the channels in order.
        target: the region that is 1 in the masks.
        image_size: height and width in pixels: cropped to the case's brain, padded to a square,
            resized (bilinear, masks nearest). None keeps whole slices as they are, for sets of
            volumes of one size.
        window: low and high percentile.
        cache: folder that keeps cohorts; None means $FP4JAX_CACHE, else ~/.cache/fp4jax; False
            keeps none and holds the cohort in memory.
        workers: threads, each with a case at a time; None means one for each core, at most 4.
        on_error: ``"raise"``, or ``"skip"`` to leave out cases that cannot be used with a warning.

    Raises:
        ValueError: no cases with label maps; files that cannot be used: all are looked at, and one
            message lists the first ten; an unknown option.

    Needs nibabel.

    Example::

        cohort = fp4.data.load("brats", "MICCAI_BraTS2020_TrainingData", image_size=128)
        cohort = fp4.data.load("msd", "Task01_BrainTumour", target="enhancing", image_size=128)
    """
    _check_options(image_size, window, on_error, cache)
    workers = check_workers(workers, _MOST_WORKERS)
    found = find_cases(
        root,
        layout,
        modalities=modalities,
        label=label,
        labels=labels,
        mask=mask,
        patient_pattern=patient_pattern,
    )
    cases = list(joined([case for case in found if case.label is not None]))
    if not cases:
        raise ValueError(
            f"None of the {len(found)} cases in {root} has a label map; give the training set, or "
            "for layout 'folder' a pattern as label (--label)."
        )
    names = canonical_all(tuple(modalities) if modalities else cases[0].modalities)
    for case in cases:
        check_regions((target,), case.table)
    base = expanded(root) or Path()
    name = "_".join(sorted({case.layout for case in cases}))
    options = (target, names, image_size, window, on_error)
    folder = (expanded(str(cache)) if cache else None) or disk.default_folder()
    if cache is False:
        with tempfile.TemporaryDirectory(prefix="fp4jax_") as temporary:
            _write(Path(temporary), base, cases, name, options, workers)
            mapped = Cohort.open(temporary)
            return dataclasses.replace(
                mapped, images=np.array(mapped.images), masks=np.array(mapped.masks)
            )
    key = disk.key(
        version=VERSION,
        cases=[
            [case.id, case.patient, case.layout, sorted(case.table[target]), signature(case, names)]
            for case in cases
        ],
        allowed=[sorted({0}.union(*case.table.values())) for case in cases],
        options=options,
    )
    entry = folder / "slices" / f"{name}-{key}"
    cohort = disk.find(entry)
    if cohort is None:
        _keep(entry, base, cases, name, options, workers)
        cohort = Cohort.open(entry)
    return cohort


def _keep(entry: Path, root: Path, cases: list[Case], name: str, options: tuple, n: int) -> None:
    """Writes the entry, unless another process was faster; it appears when it is complete."""
    try:
        with replacing_folder(entry, keep_existing=True) as new:
            _write(new, root, cases, name, options, n)
    except OSError as error:
        raise ValueError(
            f"Slices cannot be kept in {entry.parent} ({error}). Name a folder with room as cache "
            "or in FP4JAX_CACHE, or pass cache=False if the set fits into memory."
        ) from error


def _write(
    folder: Path, root: Path, cases: list[Case], name: str, options: tuple, workers: int
) -> None:
    """The slices of all cases as the files of a cohort, in order."""
    target, names, image_size, window, on_error = options

    def one(case: Case) -> _Slices | str:
        try:
            return read_slices(case, names, target, image_size, window)
        except ValueError as error:
            return f"{case.id}: {error}"

    shape: tuple[int, ...] | None = None if image_size is None else (image_size, image_size)
    problems, ids, scans, numbers, done = [], [], [], [], {}
    images = masks = None
    results = ordered(one, cases, workers, 2 * workers)
    try:
        tracked = track(results, "Reading volumes", total=len(cases))
        for case, slices in zip(cases, tracked, strict=True):
            if isinstance(slices, str):
                problems.append(slices)
                continue
            shape = shape or slices.masks.shape[1:]
            if slices.masks.shape[1:] != shape:
                problems.append(
                    f"{case.id}: slices of {slices.masks.shape[1:]} voxels, others have {shape}; "
                    "pass image_size to resize them"
                )
                continue
            if images is None or masks is None:
                images = NpyWriter(folder / "images.npy", (*shape, len(names)), np.uint8)
                masks = NpyWriter(folder / "masks.npy", tuple(shape), np.uint8)
            images.append(slices.images)
            masks.append(slices.masks)
            first = done.get(case.patient, 0)
            done[case.patient] = first + slices.depth
            ids += [case.patient] * len(slices.z)
            scans += [case.id] * len(slices.z)
            numbers += (first + slices.z).tolist()
    finally:
        for file in (images, masks):
            if file is not None:
                file.__exit__()
    if problems and (on_error == "raise" or not ids):
        refuse(root, problems, _REMEDY)
    if problems:
        warnings.warn(f"Cases are left out. {listed(root, problems)}", stacklevel=4)
    np.save(folder / "patient_ids.npy", np.array(ids, np.str_), allow_pickle=False)
    np.save(folder / "scan_ids.npy", np.array(scans, np.str_), allow_pickle=False)
    np.save(folder / "slice_index.npy", np.array(numbers, np.int32), allow_pickle=False)
    record = {
        "format": _FORMAT,
        "name": name,
        "channels": names,
        "shape": (len(ids), *(shape or ()), len(names)),
    }
    (folder / "cohort.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_slices(
    case: Case,
    modalities: Sequence[str],
    target: str,
    image_size: int | None,
    window: tuple[int | float, int | float],
) -> _Slices:
    """The slices of one case that show brain.

    Raises:
        ValueError: files that cannot be used.
    """
    read = read_case(case, modalities)
    if read.label is None:
        raise ValueError(f"Case {case.id} has no label map.")
    layout = case.layout if case.labels is None else case.labels
    bits = region_bits(
        read.label.data, layout, regions=(target,), path=read.label.path, step=read.label.step
    )
    inside = bits > 0
    for brain in read.brain:
        inside = inside | brain
    x, y, z = bounding_box(inside)
    if image_size is None:
        x = y = slice(None)
    grey = [
        window_to_uint8(volume.data[x, y, z], brain[x, y, z], window)
        for volume, brain in zip(read.images, read.brain, strict=True)
    ]
    images = _picture(np.stack(grey, axis=-1))
    masks = _picture(bits[x, y, z])
    if image_size is not None:
        images, masks = _square(images), _square(masks)
        images = resize_images(images, (image_size, image_size))
        masks = resize_masks(masks, (image_size, image_size))
    depth = read.label.data.shape[2]
    return _Slices(images, masks, np.arange(depth)[z], depth)


def window_to_uint8(
    data: np.ndarray, brain: np.ndarray, percentiles: tuple[int | float, int | float]
) -> np.ndarray:
    """Grey levels 0..255 between two percentiles of the brain's voxels; 0 outside.

    Example:
        >>> import numpy as np
        >>> data = np.array([0.0, 10.0, 15.0, 20.0], np.float32)
        >>> window_to_uint8(data, data > 0, (0.0, 100.0)).tolist()
        [0, 0, 128, 255]
    """
    values = data[brain]
    low, high = np.percentile(values, percentiles).tolist()
    grey = np.zeros(data.shape, np.uint8)
    scale = 255 / max(high - low, np.finfo(np.float32).tiny)
    scaled = (np.clip(values, low, high).astype(np.float64) - low) * scale
    grey[brain] = np.rint(scaled).astype(np.uint8)
    return grey


def _picture(volume: np.ndarray) -> np.ndarray:
    """(x, y, z, ...) in RAS -> (z, row, column, ...), anterior on top, left on the right."""
    return np.ascontiguousarray(np.moveaxis(volume[::-1, ::-1], (0, 1, 2), (2, 1, 0)))


def _square(stack: np.ndarray) -> np.ndarray:
    """Zeros around (n, h, w, ...), equally on both sides, to h = w."""
    side = max(stack.shape[1:3])
    missing = [side - n for n in stack.shape[1:3]]
    pads = [(m // 2, m - m // 2) for m in missing]
    return np.pad(stack, [(0, 0), *pads, *[(0, 0)] * (stack.ndim - 3)])


def _check_options(
    image_size: int | None, window: tuple[int | float, int | float], on_error: str, cache: object
) -> None:
    check_image_size(image_size)
    low, high = window
    if not 0 <= low < high <= 100:
        raise ValueError(f"window is {window}; two percentiles are needed, 0 <= low < high <= 100.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}; "raise" and "skip" are allowed.')
    if cache is True:
        raise ValueError("cache is True; name a folder, or pass None for the default one.")
