"""Scores of whole cases: overlap and distances of each region, ranking of all voxels, label maps.

All of them are of the files as written (:mod:`fp4jax.train.volumes.written`), on their own grid.
Voxels of all regions together are what curves, AUPRC, recall and F2 are of, so that studies of
volumes and of slices have one report; every region on its own is in ``test_regions``.
"""

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax import metrics
from fp4jax.data import Split
from fp4jax.data.nifti import LoadedCase
from fp4jax.data.nifti.geometry import millilitres
from fp4jax.data.progress import track
from fp4jax.files import replacing
from fp4jax.inference import Segmentation
from fp4jax.metrics import Histogram, ImageSums
from fp4jax.train import patients
from fp4jax.train.slices.scoring import THRESHOLDED
from fp4jax.train.threshold import chosen_threshold
from fp4jax.train.volumes.written import written

if TYPE_CHECKING:
    from fp4jax.train.model import Model
    from fp4jax.train.volumes.data import VolumeData

TABLE = "test_cases.csv"
PREDICTIONS = "predictions"

T = TypeVar("T")

#: Region -> metric -> value.
Report = dict[str, dict[str, float]]

_add = jax.jit(Histogram.add, donate_argnums=0)


@dataclasses.dataclass(frozen=True)
class Scored:
    """What is kept of a case."""

    patient: str
    case: str
    # of the voxels of all regions; sums are at the threshold 0.5
    histogram: Histogram
    sums: ImageSums
    regions: Report

    @classmethod
    def of(cls, case: LoadedCase, found: Segmentation) -> "Scored":
        target: Any = case.target
        p = np.clip(found.probabilities, metrics.CLIP, np.float32(1 - metrics.CLIP))
        logits = np.log(p) - np.log1p(-p)
        return cls(
            patient=case.case.patient,
            case=case.id,
            histogram=_add(
                Histogram.zeros(patients.BINS),
                jnp.asarray(logits.reshape(1, -1)),
                jnp.asarray(target.reshape(1, -1)),
            ),
            sums=ImageSums.of(found.probabilities.reshape(1, -1), target.reshape(1, -1), 0.5),
            regions=region_report(found.masks, case),
        )

    def sums_at(self, threshold: float) -> ImageSums:
        """With the hard sums at one of ``metrics.THRESHOLDS``."""
        hard, both = self.histogram.above(threshold)
        return dataclasses.replace(self.sums, hard=np.array([hard]), hard_y=np.array([both]))


def validate(model: "Model", data: "VolumeData", patients: Sequence[str]) -> dict[str, float]:
    """Dice of each region, ``dice_NAME``, mean over the cases; and ``dice``, mean over regions.

    Of the files as they would be written. Of a case in which a region is empty, Dice is 1 if the
    prediction is too, else 0.
    """
    scores = each_case(model, data, data.places(patients), "Validating", _overlap)
    means = np.mean(scores, axis=0)
    named = {f"dice_{name}": float(d) for name, d in zip(data.regions, means, strict=True)}
    return {"dice": float(means.mean()), **named}


def evaluate(model: "Model", data: "VolumeData", split: Split, folder: Path) -> dict[str, Any]:
    """All metrics of the validation and the test cases; writes a table and label maps.

    The folder gets ``test_cases.csv``, a row for each case and region, ``predictions/CASE.nii.gz``
    with affine and header of the case's images, and what :mod:`fp4jax.train.patients` keeps.
    Without validation cases that tell, the threshold is 0.5; without test cases there are no
    scores.
    """
    threshold, scores = 0.5, {}
    for part in ("val", "test"):
        places = data.places(getattr(split, part))
        cases = functools.partial(each_case, model, data, places, f"Scoring {part}")
        shown: list[patients.Examples] = []
        if part == "val":
            kept = cases(Scored.of)
        else:
            tested = cases(functools.partial(_tested, folder))
            kept, shown = [one for one, _ in tested], [picture for _, picture in tested]
        pooled = merged(kept)
        if part == "val":
            threshold = chosen_threshold(None if pooled is None else pooled.sweep(), folder.name)
        scores[part] = report(kept, threshold)
        if kept and model.writes:
            patients.write_scores(folder / f"{part}_scores.npz", _by_patient(kept))
        if part == "test":
            scores["test_patients"] = _dice(kept)
            scores["test_regions"] = mean_regions(kept)
            if kept and model.writes:
                write_table(folder / TABLE, {one.case: one.regions for one in kept})
                patients.write_examples(folder / "examples.npz", patients.together(shown))
    return {"threshold": threshold, **scores}


def score(
    model: "Model", data: "VolumeData", patients: Sequence[str], threshold: float
) -> dict[str, Any]:
    """All metrics of these patients at a threshold that is known, and each region's."""
    places = data.places(patients)
    kept = [Scored.of(case, found) for case, found in segmented(model, data, places, "Scoring")]
    return {**report(kept, threshold), "regions": mean_regions(kept)}


def report(kept: Sequence[Scored], threshold: float) -> dict[str, float]:
    """The metrics of slices by the same names, cases taking the place of images."""
    pooled = merged(kept)
    if pooled is None:
        return {}
    ids = [one.patient for one in kept]
    at_half = ImageSums.concatenate([one.sums for one in kept]).report(ids)
    at_best = ImageSums.concatenate([one.sums_at(threshold) for one in kept]).report(ids)
    ranking = metrics.from_histogram(pooled)
    return at_half | ranking | {f"{name}_at_best": at_best[name] for name in THRESHOLDED}


def mean_regions(kept: Sequence[Scored]) -> Report:
    """BraTS' metrics of each region, means over cases, and under ``mean`` those over regions."""
    return metrics.mean_report([one.regions for one in kept]) if kept else {}


def region_report(predicted: np.ndarray, case: LoadedCase) -> Report:
    """The metrics of each region of a labelled case, and their mean."""
    target: Any = case.target
    voxel = 1000 * millilitres(case.affine)
    return metrics.region_report(predicted, target, case.regions, case.spacing, voxel=voxel)


def write_table(path: Path, reports: Mapping[str, Report]) -> None:
    """Writes a CSV file with a row for each case and region, and for each case's mean."""
    rows = [
        {"case": case, "region": region} | scores
        for case, of_case in reports.items()
        for region, scores in of_case.items()
    ]
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def segmented(
    model: "Model", data: "VolumeData", places: Sequence[int], doing: str
) -> Iterator[tuple[LoadedCase, Segmentation]]:
    """Each case with its prediction, as a file of it would say it."""
    for place in track(places, doing, total=len(places)):
        case = data.volumes.load(place)
        yield written(case, model.segment(case.image))


def each_case(
    model: "Model",
    data: "VolumeData",
    places: Sequence[int],
    doing: str,
    function: Callable[[LoadedCase, Segmentation], T],
) -> list[T]:
    """``function(case, prediction)`` for each case, by the processes of a training together."""
    cases = segmented(model, data, model.own(places), doing)
    return model.together([function(case, found) for case, found in cases])


def _overlap(case: LoadedCase, found: Segmentation) -> np.ndarray:
    """Dice of each region."""
    target: Any = case.target
    p, t = found.masks > 0, target > 0
    both, either = (m.sum((0, 1, 2), dtype=np.int64) for m in (p & t, p | t))
    return np.where(either, 2 * both / np.maximum(both + either, 1), 1.0)


def _tested(
    folder: Path, case: LoadedCase, found: Segmentation
) -> tuple[Scored, patients.Examples]:
    """What is kept of a test case, whose file is written."""
    _save(folder / PREDICTIONS, case, found)
    return Scored.of(case, found), patients.cut(case, found)


def merged(kept: Sequence[Scored]) -> Histogram | None:
    """The voxels of all cases, None without any."""
    total = None
    for one in kept:
        total = one.histogram if total is None else total.merge(one.histogram)
    return total


def _by_patient(kept: Sequence[Scored]) -> dict[str, Histogram]:
    own: dict[str, list[Scored]] = {}
    for one in kept:
        own.setdefault(one.patient, []).append(one)
    return {patient: found for patient, cases in own.items() if (found := merged(cases))}


def _dice(kept: Sequence[Scored]) -> dict[str, float]:
    """Mean Dice over regions of each patient, over its scans."""
    own: dict[str, list[float]] = {}
    for one in kept:
        own.setdefault(one.patient, []).append(one.regions["mean"]["dice"])
    return {patient: float(np.mean(values)) for patient, values in sorted(own.items())}


def _save(folder: Path, case: LoadedCase, found: Segmentation) -> None:
    from fp4jax.train.volumes.data import save

    folder.mkdir(exist_ok=True)
    save(folder / f"{case.id}.nii.gz", found.masks, case, overwrite=True)
