"""Evaluation of a trained network on whole cases: overlap and distances, label maps, pictures."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax import metrics
from fp4jax.data.nifti import LoadedCase
from fp4jax.data.progress import track
from fp4jax.files import replacing
from fp4jax.volumes.cases import Data, save
from fp4jax.volumes.inference import Segmenter
from fp4jax.volumes.picture import picture

TABLE = "test_cases.csv"
PREDICTIONS = "predictions"

# Region -> metric -> value.
Report = dict[str, dict[str, float]]


def evaluate(segmenter: Segmenter, data: Data, out: Path) -> Report:
    """Segments the test cases; writes a table and their label maps; returns the means.

    Args:
        segmenter: of the best epoch.
        data: the cases and their split.
        out: the run's folder: gets ``test_cases.csv``, a row for each case and region, and
            ``predictions/CASE.nii.gz`` with affine and header of the case's images.

    Returns:
        ``{"whole_tumour": {"dice": ..., "hd95_mm": ...}, ..., "mean": {...}}``: the metrics of
        :func:`fp4jax.metrics.region_report`, means over the cases, and over the regions. Empty
        masks count as in BraTS; without test cases there is nothing.
    """
    reports = {}
    (out / PREDICTIONS).mkdir(exist_ok=True)
    for case, predicted in _segmented(segmenter, data, data.places("test"), "Evaluating"):
        save(out / PREDICTIONS / f"{case.id}.nii.gz", predicted, case, overwrite=True)
        reports[case.id] = report(predicted, case)
    if not reports:
        return {}
    write_table(out / TABLE, reports)
    return metrics.mean_report(list(reports.values()))


def report(predicted: np.ndarray, case: LoadedCase) -> Report:
    """The metrics of each region of a labelled case, and their mean."""
    target: Any = case.target
    return metrics.region_report(predicted, target, case.regions, case.spacing)


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


def mean_dice(segmenter: Segmenter, data: Data, places: Sequence[int]) -> dict[str, float]:
    """Dice of each region, ``dice_NAME``, mean over the cases; and ``dice``, mean over regions.

    Of a case in which a region is empty, Dice is 1 if the prediction is too, else 0.
    """
    scores = []
    for case, predicted in _segmented(segmenter, data, places, "Validating"):
        target: Any = case.target
        p, t = predicted > 0, target > 0
        both, either = (m.sum((0, 1, 2), dtype=np.int64) for m in (p & t, p | t))
        scores.append(np.where(either, 2 * both / np.maximum(both + either, 1), 1.0))
    means = np.mean(scores, axis=0)
    named = {f"dice_{name}": float(d) for name, d in zip(data.regions, means, strict=True)}
    return {"dice": float(means.mean()), **named}


def draw(segmenter: Segmenter, data: Data, out: Path) -> None:
    """Writes ``CASE.png`` for every test case, see :func:`fp4jax.volumes.picture.picture`."""
    out.mkdir(exist_ok=True)
    for case, predicted in _segmented(segmenter, data, data.places("test"), "Drawing"):
        draw_case(out / f"{case.id}.png", case, predicted, data.modalities)


def draw_case(
    path: Path, case: LoadedCase, predicted: np.ndarray, modalities: Sequence[str]
) -> None:
    """Writes the picture of a case, with its labels if it has any."""
    picture(
        path,
        case.image,
        predicted,
        case.target,
        modalities=modalities,
        regions=case.regions,
        spacing=case.spacing,
        title=case.id,
    )


def _segmented(
    segmenter: Segmenter, data: Data, places: Sequence[int], doing: str
) -> Iterator[tuple[LoadedCase, np.ndarray]]:
    """Each case with its prediction."""
    for place in track(places, doing, total=len(places)):
        case = data.volumes.load(place)
        yield case, segmenter(case.image)
