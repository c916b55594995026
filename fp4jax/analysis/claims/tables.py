"""All tables that follow from a collected study, as CSV."""

import dataclasses
from pathlib import Path
from typing import Any

from fp4jax.analysis.claims.collected import METRICS, Collected
from fp4jax.analysis.claims.contrasts import compared
from fp4jax.analysis.claims.coverage import coverage, expected_folds
from fp4jax.analysis.claims.rules import decided
from fp4jax.analysis.claims.variance import variances
from fp4jax.analysis.csv_tables import read_csv, write_csv
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

#: Of :data:`fp4jax.analysis.claims.collected.METRICS`.
PRIMARY = METRICS[:2]
_TEXT = ["arch", "scale", "label", "contrast", "metric", "members", "a", "b", "unit", "verdict"]
_TEXT += [
    "source",
    "archs",
    "labels",
    "part",
    "says",
    "measured",
    "lacks",
    "of_claim",
    "claim_lacks",
]


@dataclasses.dataclass(frozen=True)
class Tables:
    """What a study shows.

    Attributes:
        coverage: what there is of it, :func:`fp4jax.analysis.claims.coverage.coverage`.
        means: arch, scale, label, ``patients``, and the mean of each metric over them, each patient
            counted once.
        contrasts: :func:`fp4jax.analysis.claims.contrasts.compared`.
        variances: :func:`fp4jax.analysis.claims.variance.variances` of the primary metrics.
        claims: :func:`fp4jax.analysis.claims.rules.decided` of the primary metrics.
    """

    coverage: pd.DataFrame
    means: pd.DataFrame
    contrasts: pd.DataFrame
    variances: pd.DataFrame
    claims: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Tables":
        """From the CSV files that :meth:`write` left."""
        names = (field.name for field in dataclasses.fields(cls))
        return cls(*(read_csv(folder / f"{name}.csv", _TEXT) for name in names))

    def write(self, folder: Path) -> list[Path]:
        """A CSV file per table; what is the same gives the same bytes."""
        frames = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [write_csv(frame, folder / f"{name}.csv") for name, frame in frames.items()]


def all_tables(study: Collected, resamples: int = 2000) -> Tables:
    """Everything that a collected study shows; the same study gives the same tables.

    Args:
        study: collected.
        resamples: of the bootstraps.
    """
    scores: Any = study.scores
    folds = expected_folds(study.runs)
    contrasts = compared(study, resamples)
    found = [own for m in PRIMARY if len(own := variances(scores, m, folds, resamples))]
    spread = pd.concat(found, ignore_index=True) if found else variances(scores[:0], PRIMARY[0], 1)
    claims = [decided(contrasts, spread, metric) for metric in PRIMARY]
    return Tables(
        coverage=coverage(study),
        means=_means(scores),
        contrasts=contrasts,
        variances=spread,
        claims=pd.concat(claims, ignore_index=True),
    )


def _means(scores: Any) -> pd.DataFrame:
    """Over patients; before that over what a patient was tested in."""
    keys, columns = ["arch", "scale", "label"], list(METRICS)
    own = scores[scores[columns].notna().any(axis=1)]
    each = own.groupby([*keys, "patient"], sort=False)[columns].mean().groupby(keys, sort=False)
    means = each.mean()
    means.insert(0, "patients", each.size())
    return means.reset_index()
