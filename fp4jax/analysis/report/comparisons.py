"""Tables of statistics: comparisons, ranks, patients."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.analysis.figures.rows import where
from fp4jax.analysis.figures.style import ordered_archs, ordered_scales, shown, title
from fp4jax.analysis.report.headline import groups, size
from fp4jax.analysis.report.html import Cell, frame_table, number, table
from fp4jax.metrics.volumes import MEAN

if TYPE_CHECKING:
    import pandas as pd

_GROUP = {
    "arch": ("architecture", lambda value: Cell(title(value))),
    "scale": ("scale", size),
}


#: Of patients: column -> heading.
_METRICS = {"auprc": "AUPRC", "f2": "F2", "recall": "recall", "dice": "Dice", "missed": "missed"}


def paired(frame: "pd.DataFrame") -> str:
    """Of :func:`fp4jax.analysis.stats.compare`."""
    columns: dict[str, Any] = _GROUP | {
        "a": ("a", _label),
        "b": ("b", _label),
        "pairs": ("pairs", _own),
        "interval": ("a − b, 95 % interval", _own),
        "effect": ("d_z, 95 % interval", _own),
        "p": ("p (Wilcoxon)", _p),
        "p_holm": ("p (Holm)", _p),
        "smallest_p_holm": ("smallest p (Holm)", _p),
        "detectable": ("detectable", lambda value: number(value, 4)),
        "p_equivalence_holm": ("p of equivalence (Holm)", _p),
        "verdict": ("at 0.05", Cell),
    }
    records = _records(frame := in_order(frame))
    frame = frame.assign(
        pairs=[_pairs(row) for row in records],
        interval=[_interval(row) for row in records],
        effect=[_between(row, "d_z", "d_z_low", "d_z_high", 2) for row in records],
    )
    return frame_table(frame, columns)


def on_patients(frame: "pd.DataFrame") -> str:
    """Of :func:`fp4jax.analysis.report.frames.patient_comparisons`."""
    columns: dict[str, Any] = {"metric": ("metric", lambda name: Cell(_METRICS[name]))} | _GROUP
    columns |= {
        "a": ("a", _label),
        "b": ("b", _label),
        "n": ("patients", number),
        "folds": ("folds", number),
        "interval": ("a − b, 95 % interval", _own),
        "p_holm": ("p of these networks", _p),
        "p_folds_holm": ("p over folds", _p),
        "detectable": ("detectable", lambda value: number(value, 4)),
        "p_equivalence_holm": ("p of equivalence", _p),
        "verdict": ("at 0.05", Cell),
    }
    frame = in_order(frame)
    return frame_table(frame.assign(interval=[_interval(r) for r in _records(frame)]), columns)


def ranks(frame: "pd.DataFrame") -> str:
    """Of :func:`fp4jax.analysis.stats.kendall`."""
    columns: dict[str, Any] = _GROUP | {
        "n": ("blocks", number),
        "labels": ("labels", number),
        "w": ("W", number),
        "verdict": ("agreement", Cell),
        "mean_ranks": ("mean ranks, 1 is best", _ranks),
    }
    return frame_table(in_order(frame), columns)


def in_order(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Architectures and scales as everywhere in the report."""
    archs, scales = ordered_archs(frame["arch"]), ordered_scales(frame["scale"])
    rank = [
        archs.index(arch) * len(scales) + scales.index(scale)
        for arch, scale in zip(frame["arch"], frame["scale"], strict=True)
    ]
    return frame.iloc[np.argsort(rank, kind="stable")]


def _records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    return frame.to_dict(orient="records")  # pyright: ignore


def _own(cell: Cell) -> Cell:
    return cell


def _label(label: str) -> Cell:
    return Cell(shown(label))


def _p(value: float) -> Cell:
    if value != value or value >= 1e-4:
        return number(value, 4)
    return Cell("< 0.0001", value)


def _interval(row: dict[str, Any]) -> Cell:
    cell = number(row["difference"], 4)
    if row["ci_low"] != row["ci_low"]:
        return Cell(cell.text, cell.sort, "one pair, no interval" if row["n"] == 1 else "")
    return Cell(cell.text, cell.sort, f"{row['ci_low']:.4f} to {row['ci_high']:.4f}")


def _pairs(row: dict[str, Any]) -> Cell:
    unit = row["unit"] + "s" * (row["n"] != 1)
    return Cell(
        f"{row['n']} {unit}", float(row["n"]), f"{row['ties']} equal" if row["ties"] else ""
    )


def _ranks(means: dict[str, float]) -> Cell:
    order = sorted(means, key=lambda label: (means[label], label))
    defined = [f"{shown(label)} {means[label]:.1f}" for label in order if means[label] > 0]
    return Cell(", ".join(defined) or "–")


def patients(frame: "pd.DataFrame") -> str:
    """Of :func:`fp4jax.analysis.report.frames.patient_bootstrap`."""
    columns: dict[str, Any] = _GROUP | {
        "label": ("label", _label),
        "n": ("runs", number),
        "patients": ("patients", number),
        "own": ("AUPRC, 95 % interval", _own),
        "other": ("baseline − label, 95 % interval", _own),
    }
    records = _records(frame)
    own = [_between(r, "auprc", "ci_low", "ci_high", 3) for r in records]
    other = [_between(r, "loss", "loss_low", "loss_high", 4) for r in records]
    return frame_table(frame.assign(own=own, other=other), columns)


def regions(frame: "pd.DataFrame") -> str:
    """Of :func:`fp4jax.analysis.results.regions`: means over runs, of all regions last."""
    order = list(dict.fromkeys(frame["region"]))
    order.sort(key=lambda region: region == MEAN)
    rows = []
    for arch, scale, label in groups(frame):
        for region in order:
            own = where(frame, arch=arch, scale=scale, label=label, region=region)
            dice, distance = (own[name].to_numpy(float) for name in ("dice", "hd95_mm"))
            rows.append(
                [
                    *(Cell(title(arch)), size(scale), _label(label), Cell(region)),
                    *(number(len(own)), _spread(dice, 3), _spread(distance, 1)),
                ]
            )
    names = ["architecture", "scale", "label", "region", "runs", "Dice", "HD95, mm"]
    return table(names, rows)


def _spread(values: np.ndarray, digits: int) -> Cell:
    """Mean ± standard deviation over runs."""
    values = values[np.isfinite(values)]
    if not len(values):
        return number(None)
    mean = number(float(values.mean()), digits)
    if len(values) == 1:
        return mean
    return Cell(f"{mean.text} ± {values.std(ddof=1):.{digits}f}", mean.sort)


def _between(row: dict[str, Any], name: str, low: str, high: str, digits: int) -> Cell:
    cell = number(row[name], digits)
    if row[name] != row[name]:
        return cell
    return Cell(cell.text, cell.sort, f"{row[low]:.{digits}f} to {row[high]:.{digits}f}")
