"""The headline table: test metrics of each architecture, scale and label."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.analysis.figures.rows import by_group, defined, where
from fp4jax.analysis.figures.style import BASELINE, ordered_archs, ordered_scales, shown, title
from fp4jax.analysis.report.html import Cell, number, table
from fp4jax.analysis.stats import summary
from fp4jax.analysis.stats.rows import ordered
from fp4jax.extras import Extra

if TYPE_CHECKING:
    import pandas as pd

#: Column of the table of runs -> heading.
METRICS = {
    "test_auprc": "AUPRC",
    "test_hard_recall_at_best": "recall",
    "test_hard_f2_score_at_best": "F2",
    "test_hard_dice_patient_at_best": "Dice per patient",
}
ONE_RUN = "one run, no interval"


def summaries(runs: "pd.DataFrame") -> "pd.DataFrame":
    """:func:`fp4jax.analysis.stats.summary` of each headline metric, named in a first column."""
    with Extra("study"):
        import pandas as pd

    found = []
    for metric in METRICS:
        if metric in runs and defined(runs, metric).any():
            own = summary(runs, metric)
            own.insert(0, "metric", metric)
            found.append(own)
    if not found:
        return pd.DataFrame(columns=["metric", "arch", "scale", "label"])
    return pd.concat(found, ignore_index=True)


def headline(runs: "pd.DataFrame", relative: "pd.DataFrame") -> str:
    """A row per architecture, scale and label; each metric with sd and 95 % t interval."""
    records = summaries(runs)
    found = {metric: by_group(where(records, metric=metric)) for metric in METRICS}
    shares = by_group(summary(relative, "percent")) if len(relative) else {}
    rows = []
    for group in groups(runs):
        arch, scale, label = group
        own = where(runs, arch=arch, scale=scale, label=label)
        share = Cell("100", 100.0) if label == BASELINE else _mean(shares.get(group), 1)
        cells = [_mean(found[metric].get(group), 3, bare=i > 0) for i, metric in enumerate(METRICS)]
        rows.append(
            [
                Cell(title(arch)),
                size(scale),
                Cell(shown(label)),
                number(len(own)),
                cells[0],
                share,
                *cells[1:],
                number(float(np.mean(own["threshold"].to_numpy(float))), 2),
            ]
        )
    auprc, *others = METRICS.values()
    names = ["architecture", "scale", "label", "runs", auprc, "% of baseline", *others]
    return table([*names, "threshold"], rows)


def groups(runs: "pd.DataFrame") -> list[tuple[str, str, str]]:
    """(architecture, scale, label) in the order of tables."""
    found = set(zip(runs["arch"], runs["scale"], runs["label"], strict=True))
    return [
        (arch, scale, label)
        for arch in ordered_archs(runs["arch"])
        for scale in ordered_scales(runs["scale"])
        for label in ordered(list(runs["label"].unique()))
        if (arch, scale, label) in found
    ]


def size(scale: str) -> Cell:
    """A scale that sorts by its number of parameters."""
    factor = {"k": 1e3, "m": 1e6}.get(scale[-1:].lower())
    digits = scale[:-1]
    number_of = float(digits) * factor if factor and digits.isdecimal() else scale
    return Cell(scale.upper(), number_of)


def _mean(record: dict[str, Any] | None, digits: int, *, bare: bool = False) -> Cell:
    """Mean ± sd, the interval below; ``bare`` says nothing of an interval that one run lacks."""
    if record is None:
        return number(None)
    mean = number(record["mean"], digits)
    if record["n"] == 1:
        return Cell(mean.text, mean.sort, "" if bare else ONE_RUN)
    note = f"{record['ci_low']:.{digits}f} to {record['ci_high']:.{digits}f}"
    return Cell(f"{mean.text} ± {record['sd']:.{digits}f}", mean.sort, note)
