"""Two figures of a study's patients: what each recipe costs, and every patient's scores."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fp4jax.analysis.claims.collected import Collected
from fp4jax.analysis.claims.tables import PRIMARY, Tables
from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.style import (
    BASELINE,
    FAINT,
    WIDTH,
    look,
    ordered_archs,
    ordered_labels,
    ordered_scales,
    shown,
    title,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("contrasts", "patients")
#: Metric -> what an axis calls it.
NAMES = {"auprc": "AUPRC", "f2": "F2", "recall": "recall", "dice": "Dice", "missed": "missed"}


def draw(study: Collected, tables: Tables) -> "dict[str, Figure]":
    """The figures by name, of :data:`FIGURES` those that the study allows."""
    found = {"contrasts": _contrasts(tables.contrasts), "patients": _patients(study.scores)}
    return {name: figure for name, figure in found.items() if figure is not None}


def _contrasts(contrasts: "pd.DataFrame") -> "Figure | None":
    """What each recipe that has all folds loses to the baseline, and the margin as a band."""
    own: Any = contrasts[contrasts["contrast"].str.startswith("recipes")]
    own = own[own["folds"] >= own["of_folds"]] if len(own) else own
    if own.empty:
        return None
    rows = list(_lines(own))
    figure = panels.new_figure(WIDTH, 1.3 + 0.3 * len(rows))
    axes = figure.subplots(1, len(PRIMARY), sharey=True, squeeze=False)[0]
    margin = float(own["margin"].iloc[0])
    for metric, axis in zip(PRIMARY, axes, strict=True):
        axis.axvspan(-margin, margin, color=FAINT, alpha=0.18, linewidth=0)
        axis.axvline(0, color=FAINT, linewidth=0.9)
        for place, (arch, scale, label) in enumerate(rows):
            _interval(axis, place, own, metric=metric, arch=arch, scale=scale, b=label)
        axis.set_xlabel(f"{NAMES[metric]} of a patient: baseline - recipe", fontsize=9)
        axis.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    names = [f"{title(arch, scale)}  {shown(label)}" for arch, scale, label in rows]
    axes[0].set_yticks(range(len(rows)), names, fontsize=9)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _lines(own: "pd.DataFrame") -> Iterator[tuple[str, str, str]]:
    there = set(zip(own["arch"], own["scale"], own["b"], strict=True))
    for arch in ordered_archs(own["arch"]):
        for scale in ordered_scales(own["scale"]):
            for label in ordered_labels(own["b"]):
                if (arch, scale, label) in there:
                    yield arch, scale, label


def _interval(axis: "Axes", place: int, own: Any, **values: str) -> None:
    for column, value in values.items():
        own = own[own[column] == value]
    for row in own.to_dict(orient="records"):
        style = look(row["b"])
        # An interval of percentiles need not be about the difference.
        axis.plot([row["ci_low"], row["ci_high"]], [place, place], color=style.colour, lw=1.6)
        axis.plot(row["difference"], place, **style.dots(), ms=6)


def _patients(scores: "pd.DataFrame") -> "Figure | None":
    """A dot per patient and recipe; above the diagonal the recipe beats the baseline."""
    keys = ["arch", "scale", "label", "split", "seed", "patient"]
    wide: Any = scores.set_index(keys)["auprc"].unstack("label")
    if BASELINE not in wide or len(wide.columns) < 2:
        return None
    pairs = {}
    for label in ordered_labels(wide.columns):
        both = wide[[BASELINE, label]].dropna().set_axis(["x", "y"], axis=1)
        for group, rows in both.groupby(level=["arch", "scale"]):
            if label != BASELINE:
                means = rows.groupby(level="patient").mean()
                pairs.setdefault(group, {})[label] = (means["x"], means["y"])
    if not pairs:
        return None
    figure, axes = panels.grid(pairs, 3.6, width=3.6)
    for group, axis in axes.items():
        axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=0.9)
        for label, (x, y) in pairs[group].items():
            axis.plot(x, y, **look(label).dots(), ms=4.5, alpha=0.7)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.set_box_aspect(1)
    for axis in panels.lowest(axes):
        axis.set_xlabel("AUPRC of a test patient, baseline", fontsize=9)
    figure.supylabel("AUPRC of the same patient, recipe", fontsize=9)
    panels.legend_below(figure, {label for own in pairs.values() for label in own}, lines=False)
    return figure
