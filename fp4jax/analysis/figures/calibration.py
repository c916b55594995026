"""Reliability diagrams: how often pixels of a predicted probability belong to the lesion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.scores import Counts, Scores, by_group, reliability
from fp4jax.analysis.figures.style import FAINT, look, ordered_labels, shown, title
from fp4jax.metrics.calibration import ECE_BINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult


def reliability_diagram(
    runs: "Sequence[RunResult]", scores: Scores | None = None
) -> "Figure | None":
    """Share of lesion pixels over the mean probability of 15 bins, and the bins' pixels below.

    Runs of a label are pooled; the expected calibration error (ECE) in the legend is the mean of
    the runs'. A panel per architecture and scale.

    Args:
        runs: finished.
        scores: what ``by_group`` has read of them, if it has.

    Returns:
        None if no run kept scores.
    """
    data = by_group(runs) if scores is None else scores
    if not data:
        return None
    rows, columns, found = panels.places(data)
    figure = panels.new_figure(min(panels.WIDTH, 0.8 + 4.2 * columns), 4.4 * rows)
    outer = figure.add_gridspec(rows, columns)
    for group, place in found.items():
        inner = outer[place].subgridspec(2, 1, height_ratios=[3, 1])
        top, bottom = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        _panel(top, bottom, data[group], title(*group))
        if place[1] == 0:
            top.set_ylabel("share of lesion pixels", fontsize=9)
            bottom.set_ylabel("pixels", fontsize=9)
    return figure


def _panel(top, bottom, labels: dict[str, list], heading: str) -> None:
    edges = np.arange(ECE_BINS + 1) / ECE_BINS
    top.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=0.9)
    for label in ordered_labels(labels):
        pooled = Counts(
            np.sum([counts.negatives for _, counts in labels[label]], axis=0),
            np.sum([counts.positives for _, counts in labels[label]], axis=0),
        )
        bins, own = reliability(pooled), look(label)
        ece = np.mean([run.summary["test"]["ece"] for run, _ in labels[label]])
        filled = bins.pixels > 0
        text = f"{shown(label)}: {ece:.4f}"
        drawn = own.dots() | own.curve()
        top.plot(bins.mean[filled], bins.share[filled], **drawn, ms=3.5, linewidth=1.1, label=text)
        count = np.where(filled, bins.pixels, np.nan)
        bottom.stairs(count, edges, color=own.colour, linestyle=own.line, linewidth=1.1)
    top.set_title(heading, fontsize=10)
    top.set(xlim=(0, 1), ylim=(0, 1))
    top.set_xticklabels([])
    top.legend(fontsize=6.5, loc="upper left", title="ECE", title_fontsize=7, framealpha=0.85)
    bottom.set_yscale("log")
    bottom.set_xlim(0, 1)
    bottom.set_xlabel("mean predicted probability", fontsize=8)
    for axis in (top, bottom):
        panels.tidy(axis)
