"""The headline table: test metrics of each architecture, scale and label."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.analysis.figures.style import BASELINE, ordered_archs, ordered_scales, shown, title
from fp4jax.analysis.report.html import NOTHING, Cell, number, table
from fp4jax.analysis.stats import summary
from fp4jax.analysis.stats.rows import ordered

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
    import pandas as pd

    found = []
    for metric in METRICS:
        if metric in runs and runs[metric].notna().any():
            own = summary(runs, metric)
            own.insert(0, "metric", metric)
            found.append(own)
    if not found:
        return pd.DataFrame(columns=["metric", "arch", "scale", "label"])
    return pd.concat(found, ignore_index=True)


def headline(runs: "pd.DataFrame", relative: "pd.DataFrame") -> str:
    """A row per architecture, scale and label; each metric with sd and 95 % t interval."""
    records = summaries(runs)
    found: dict[tuple, Any] = {}
    if len(records):
        keys = zip(*(records[k] for k in ("metric", "arch", "scale", "label")), strict=True)
        found = dict(zip(keys, records.to_dict("records"), strict=True))
    shares: dict[tuple, Any] = {}
    if len(relative):
        per_cent = summary(relative, "percent")
        keys = zip(*(per_cent[k] for k in ("arch", "scale", "label")), strict=True)
        shares = dict(zip(keys, per_cent.to_dict("records"), strict=True))
    rows = []
    for arch, scale, label in groups(runs):
        chosen = runs[["arch", "scale", "label"]].eq([arch, scale, label]).all(axis=1)
        own = runs[chosen]
        share = Cell("100") if label == BASELINE else _mean(shares.get((arch, scale, label)), 1)
        metrics = [found.get((metric, arch, scale, label)) for metric in METRICS]
        cells = [_mean(record, 3, interval=i == 0) for i, record in enumerate(metrics)]
        rows.append(
            [
                Cell(title(arch)),
                size(scale),
                Cell(shown(label)),
                number(len(own)),
                cells[0],
                share,
                *cells[1:],
                _mean(_threshold(own), 2, interval=False),
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


def _threshold(own: "pd.DataFrame") -> dict[str, Any]:
    values = own["threshold"].to_numpy(float)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"n": len(values), "mean": float(values.mean()), "sd": sd}


def _mean(record: dict[str, Any] | None, digits: int, *, interval: bool = True) -> Cell:
    """Mean; sd and interval below."""
    if record is None:
        return Cell(NOTHING, "-1e999")
    mean = number(record["mean"], digits)
    if record["n"] == 1:
        return Cell(mean.text, mean.sort, ONE_RUN if interval else "")
    note = f"sd {record['sd']:.{digits}f}"
    if interval or "ci_low" in record:
        note += f"; {record['ci_low']:.{digits}f} to {record['ci_high']:.{digits}f}"
    return Cell(mean.text, mean.sort, note)
