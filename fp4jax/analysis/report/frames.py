"""All tables of a study as data frames: what CSV files and the page are written from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fp4jax.analysis import stats
from fp4jax.analysis.by_patient import patient_table
from fp4jax.analysis.csv_tables import write_csv
from fp4jax.analysis.figures.rows import defined, where
from fp4jax.analysis.figures.style import BASELINE
from fp4jax.analysis.report.draws import Draws
from fp4jax.analysis.report.headline import groups, summaries
from fp4jax.analysis.results import regions, table
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

METRIC = "test_auprc"
#: Of patients; the first are primary.
PATIENT_METRICS = ("auprc", "f2", "recall", "dice", "missed")
_EMPTY = pd.DataFrame(columns=["arch", "scale", "label"])
_KEYS = ["arch", "scale", "split", "seed"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """The tables; those that the runs do not allow are empty.

    ``relative`` needs runs with a baseline of the same split and seed, ``comparisons`` too,
    those of patients runs that kept the scores of these, ``regions`` runs on volumes.
    """

    runs: pd.DataFrame
    summary: pd.DataFrame
    relative: pd.DataFrame
    comparisons: pd.DataFrame
    all_pairs: pd.DataFrame
    kendall: pd.DataFrame
    patients: pd.DataFrame
    patient_comparisons: pd.DataFrame
    patient_bootstrap: pd.DataFrame
    regions: pd.DataFrame

    @classmethod
    def of(cls, results: "Sequence[RunResult]", resamples: int) -> "Frames":
        """From finished runs.

        Raises:
            ValueError: a run that occurs twice.
        """
        runs = table(results)
        nothing = _EMPTY
        known = bool(defined(runs, METRIC).any())
        patients = patient_table(results)
        paired = known and _has_pairs(runs)
        return cls(
            runs=runs,
            summary=summaries(runs),
            relative=stats.relative(runs, METRIC) if paired else nothing,
            comparisons=stats.compare(runs, METRIC) if paired else nothing,
            all_pairs=stats.compare(runs, METRIC, pairs="all") if known else nothing,
            kendall=stats.kendall(runs, METRIC) if known else nothing,
            patients=patients,
            patient_comparisons=patient_comparisons(patients, resamples),
            patient_bootstrap=patient_bootstrap(results, runs, resamples),
            regions=regions(results),
        )

    def write(self, folder: Path) -> None:
        """A CSV file per table; an empty one has names of columns only."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in dataclasses.fields(self):
            frame: pd.DataFrame = getattr(self, field.name)
            write_csv(frame, folder / f"{field.name}.csv", digits=None)


def patient_comparisons(patients: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """:func:`fp4jax.analysis.stats.compare_patients` of each metric, named in a first column."""
    found = []
    for metric in PATIENT_METRICS:
        known = where(patients, defined(patients, metric))
        if BASELINE in set(known["label"]):
            own = stats.compare_patients(known, metric, resamples=resamples)
            own.insert(0, "metric", metric)
            found.append(own)
    found = [own for own in found if len(own)]
    return pd.concat(found, ignore_index=True) if found else _EMPTY


def patient_bootstrap(
    results: "Sequence[RunResult]", runs: pd.DataFrame, resamples: int
) -> pd.DataFrame:
    """Test AUPRC of each label, and what it loses to the baseline, with hierarchical intervals.

    Returns:
        arch, scale, label, n (runs), patients (tested, each once), auprc, ci_low, ci_high; then
        pairs (runs with a baseline of the same split and seed), loss, loss_low and loss_high.
    """
    rows, draws = [], Draws(results, resamples)
    for arch, scale, label in groups(runs):
        key, baseline = (arch, scale, label), (arch, scale, BASELINE)
        parts = draws.parts(key)
        if not parts:
            continue
        names = {"arch": arch, "scale": scale, "label": label, "n": len(parts)}
        patients = {patient for scores in draws.scores(key).values() for patient in scores}
        of_own = draws.of(key, parts).interval()
        row: dict[str, Any] = names | {"patients": len(patients)}
        row |= dict(zip(("auprc", "ci_low", "ci_high"), of_own, strict=True))
        others = () if label == BASELINE else draws.parts(baseline)
        both = tuple(part for part in parts if part in others)
        row |= {"pairs": len(both)}
        if both:
            loss = draws.of(baseline, both).minus(draws.of(key, both))
            row |= dict(zip(("loss", "loss_low", "loss_high"), loss, strict=True))
        rows.append(row)
    columns = ["loss", "loss_low", "loss_high"]
    if not rows:
        return _EMPTY
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[c for c in frame.columns if c not in columns] + columns)


def _has_pairs(runs: pd.DataFrame) -> bool:
    """Whether a run has a baseline, other than 0, of the same split and seed."""
    known = where(runs, defined(runs, METRIC))
    reference = where(known, known[METRIC] != 0, label=BASELINE)
    return not known.merge(reference.filter(_KEYS), on=_KEYS).empty
