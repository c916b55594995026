"""Precision over recall on the test patients."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.scores import RECALLS, Scores, by_group, precision_at
from fp4jax.analysis.figures.style import FAINT, ordered_labels, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult


def precision_recall_curves(
    runs: "Sequence[RunResult]", scores: Scores | None = None
) -> "Figure | None":
    """A curve per label from all pixels of the test patients; its AUPRC is in the legend.

    Curves are means over runs of the precision at each recall; AUPRC is the mean of the runs'.

    Args:
        runs: finished.
        scores: what ``by_group`` has read of them, if it has.

    Returns:
        None if no run kept scores.
    """
    data = by_group(runs) if scores is None else scores
    if not data:
        return None
    figure, axes = panels.grid(data, 3.3, width=3.6)
    for group, axis in axes.items():
        middle = []
        for place, label in enumerate(ordered_labels(data[group])):
            found = data[group][label]
            curve = np.mean([precision_at(counts) for _, counts in found], axis=0)
            auprc = np.mean([run.summary["test"]["auprc"] for run, _ in found])
            drawn = panels.marked(label, 7 * place, len(RECALLS))
            text = f"{shown(label)}: {auprc:.3f}"
            axis.plot(RECALLS, curve, **drawn, linewidth=1.3, ms=3.5, label=text)
            middle.append(curve[len(curve) // 2])
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
        axis.set_box_aspect(1)
        corner = "lower left" if np.median(middle) > 0.5 else "upper right"
        axis.legend(fontsize=6.5, loc=corner, title="AUPRC", title_fontsize=7, framealpha=0.85)
    for axis in panels.lowest(axes):
        axis.set_xlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    return figure
