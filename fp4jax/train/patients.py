"""What a run keeps of every patient: histograms of its scores, and one slice to look at.

``val_scores.npz`` and ``test_scores.npz`` hold a :class:`fp4jax.metrics.Histogram` per patient:
enough for curves, calibration and for drawing patients anew. ``examples.npz`` holds the slice with
the largest lesion of each test patient.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Shaped
from fp4jax.data import Cohort
from fp4jax.data.nifti import LoadedCase
from fp4jax.files import replacing
from fp4jax.inference import Segmentation
from fp4jax.metrics import CLIP, Histogram

#: Intervals of a patient's histogram; the sum of 11 patients bounded AUPRC to about 4e-4.
BINS = 1 << 12
# z-scores that are shown as black and as white.
_SHOWN = (-2.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Examples:
    """One slice of each of p patients."""

    # (p,) ids
    patients: np.ndarray
    # (p,) places of the slices in their volumes
    slices: np.ndarray
    # (p, h, w, c) as stored, uint8
    images: np.ndarray
    # (p, h, w), 0 and 1
    masks: np.ndarray
    # (p, h, w), float16
    probabilities: np.ndarray


def histograms(cohort: Cohort, maps: Shaped[np.ndarray, "n h w"]) -> dict[str, Histogram]:
    """Those of the probabilities of each patient of the cohort."""
    add = jax.jit(Histogram.add)
    # A sigmoid in float32 reaches 0 and 1.
    p = np.clip(maps, CLIP, np.float32(1 - CLIP))
    logits = np.log(p) - np.log1p(-p)
    rows = {}
    for patient in cohort.patients:
        histogram = Histogram.zeros(BINS)
        for place in np.flatnonzero(cohort.patient_ids == patient):
            histogram = add(
                histogram, jnp.asarray(logits[place][None]), jnp.asarray(cohort.masks[place][None])
            )
        rows[patient] = histogram
    return rows


def write_scores(path: Path, rows: Mapping[str, Histogram]) -> None:
    """Keeps the histogram of each patient."""
    counts = np.stack([np.asarray(h.counts) for h in rows.values()])
    invalid = np.stack([np.asarray(h.invalid) for h in rows.values()])
    _write(path, patients=np.array(list(rows)), counts=counts, invalid=invalid)


def read_scores(path: Path) -> dict[str, Histogram]:
    """The histogram of each patient, by id."""
    with np.load(path, allow_pickle=False) as file:
        patients, counts, invalid = file["patients"], file["counts"], file["invalid"]
    rows = zip(patients.tolist(), counts, invalid, strict=True)
    return {name: Histogram(count, np.asarray(bad)) for name, count, bad in rows}


def examples(cohort: Cohort, maps: Shaped[np.ndarray, "n h w"]) -> Examples:
    """The slice with the largest lesion of each patient, and its probabilities."""
    places = []
    for patient in cohort.patients:
        own = np.flatnonzero(cohort.patient_ids == patient)
        places.append(own[np.argmax(cohort.masks[own].sum((1, 2)))])
    return Examples(
        patients=np.array(cohort.patients),
        slices=cohort.slice_index[places],
        images=cohort.images[places],
        masks=cohort.masks[places],
        probabilities=maps[places].astype(np.float16),
    )


def cut(case: LoadedCase, found: Segmentation) -> Examples:
    """The axial cut with the largest lesion of a case.

    Lesion is what is in any region, its probability the largest of theirs.
    """
    target: Any = case.target
    lesion = target.any(-1)
    z = int(np.argmax(lesion.sum((0, 1))))
    low, high = _SHOWN
    grey = np.clip((case.image[:, :, z] - low) / (high - low) * 255, 0, 255)
    grey = (grey * case.image[:, :, z].any(-1, keepdims=True)).astype(np.uint8)
    shown = (grey, lesion[:, :, z].astype(np.uint8), found.probabilities[:, :, z].max(-1))
    images, masks, probabilities = (_upright(a)[None] for a in shown)
    patient = np.array([case.case.patient])
    return Examples(patient, np.array([z]), images, masks, probabilities.astype(np.float16))


def together(parts: Sequence[Examples]) -> Examples:
    """Examples in one, each patient once, padded to the largest of them."""
    side = np.max([one.masks.shape[1:] for one in parts], axis=0)
    first = {one.patients[0]: one for one in reversed(parts)}
    rows = [dataclasses.astuple(first[patient]) for patient in sorted(first)]
    columns = [[_padded(a, side) for a in column] for column in zip(*rows, strict=True)]
    return Examples(*(np.concatenate(column) for column in columns))


def _upright(image: np.ndarray) -> np.ndarray:
    """A cut (x, y, ...) with the front of the head up."""
    return np.swapaxes(image, 0, 1)[::-1]


def _padded(image: np.ndarray, side: np.ndarray) -> np.ndarray:
    if image.ndim < 3:
        return image
    frame = [(0, int(s) - n) for s, n in zip(side, image.shape[1:3], strict=True)]
    return np.pad(image, [(0, 0), *frame, *[(0, 0)] * (image.ndim - 3)])


def write_examples(path: Path, found: Examples) -> None:
    """Keeps one slice of each patient."""
    _write(path, **{f.name: getattr(found, f.name) for f in dataclasses.fields(found)})


def read_examples(path: Path) -> Examples:
    """What :func:`write_examples` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Examples(**{field.name: file[field.name] for field in dataclasses.fields(Examples)})


def _write(path: Path, **arrays: Any) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
