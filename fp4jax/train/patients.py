"""What a run keeps of every patient: histograms of its scores, and one slice to look at.

``val_scores.npz`` and ``test_scores.npz`` hold a :class:`fp4jax.metrics.Histogram` per patient:
enough for curves, calibration and for drawing patients anew. ``examples.npz`` holds the slice with
the largest lesion of each test patient.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Shaped
from fp4jax.data import Cohort
from fp4jax.files import replacing
from fp4jax.metrics import Histogram
from fp4jax.metrics.calibration import CLIP

#: Intervals of a patient's histogram; the sum of 11 patients bounded AUPRC to about 4e-4.
BINS = 1 << 12


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


def write_scores(path: Path, cohort: Cohort, maps: Shaped[np.ndarray, "n h w"]) -> None:
    """Histograms of the probabilities of each patient of the cohort."""
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
    counts = np.stack([np.asarray(h.counts) for h in rows.values()])
    invalid = np.stack([np.asarray(h.invalid) for h in rows.values()])
    _write(path, patients=np.array(list(rows)), counts=counts, invalid=invalid)


def read_scores(path: Path) -> dict[str, Histogram]:
    """The histogram of each patient, by id."""
    with np.load(path, allow_pickle=False) as file:
        patients, counts, invalid = file["patients"], file["counts"], file["invalid"]
    rows = zip(patients.tolist(), counts, invalid, strict=True)
    return {name: Histogram(jnp.asarray(count), jnp.asarray(bad)) for name, count, bad in rows}


def write_examples(path: Path, cohort: Cohort, maps: Shaped[np.ndarray, "n h w"]) -> None:
    """The slice with the largest lesion of each patient, and its probabilities."""
    places = []
    for patient in cohort.patients:
        own = np.flatnonzero(cohort.patient_ids == patient)
        places.append(own[np.argmax(cohort.masks[own].sum((1, 2)))])
    _write(
        path,
        patients=np.array(cohort.patients),
        slices=cohort.slice_index[places],
        images=cohort.images[places],
        masks=cohort.masks[places],
        probabilities=maps[places].astype(np.float16),
    )


def read_examples(path: Path) -> Examples:
    """What :func:`write_examples` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Examples(**{field.name: file[field.name] for field in dataclasses.fields(Examples)})


def _write(path: Path, **arrays: Any) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
