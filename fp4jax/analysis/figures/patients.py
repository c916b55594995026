"""Volumetric Dice of each test patient, against the baseline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.style import BASELINE, FAINT, look, ordered_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult

_Pairs = dict[str, tuple[list[float], list[float]]]


def per_patient(runs: "Sequence[RunResult]") -> "Figure | None":
    """A dot per test patient and label; above the diagonal the label beats the baseline.

    Dice is at each run's threshold; a patient's values are means over the runs of equal split and
    seed that both have.

    Returns:
        None if no label has runs of the same split and seed as the baseline.
    """
    data = {}
    for group in dict.fromkeys((run.config.arch, run.config.scale) for run in runs):
        pairs = _pairs([r for r in runs if (r.config.arch, r.config.scale) == group])
        if pairs:
            data[group] = pairs
    if not data:
        return None
    figure, axes = panels.grid(data, 3.6, width=3.6)
    for group, axis in axes.items():
        axis.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=0.9)
        for label in ordered_labels(data[group]):
            axis.plot(*data[group][label], **look(label).dots(), ms=4.5, alpha=0.7)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axis.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
        axis.set_box_aspect(1)
    for axis in panels.lowest(axes):
        axis.set_xlabel("Dice of a test patient, baseline", fontsize=9)
    figure.supylabel("Dice of the same patient, recipe", fontsize=9)
    labels = {label for pairs in data.values() for label in pairs}
    panels.legend_below(figure, labels, lines=False)
    return figure


def _pairs(runs: "Sequence[RunResult]") -> _Pairs:
    """(baseline, label) Dice of each patient, for each label but the baseline."""
    dice: dict[str, dict[tuple, dict[str, float]]] = {}
    for run in runs:
        own = {k: v for k, v in run.summary.get("test_patients", {}).items() if v is not None}
        dice.setdefault(run.label, {})[run.config.split, run.config.seed] = own
    found = {}
    for label in dice:
        both: dict[str, list[tuple[float, float]]] = {}
        for key in dice[label].keys() & dice.get(BASELINE, {}).keys():
            reference = dice[BASELINE][key]
            for patient, value in dice[label][key].items():
                if patient in reference:
                    both.setdefault(patient, []).append((reference[patient], value))
        if label != BASELINE and both:
            means = np.array([np.mean(both[patient], axis=0) for patient in sorted(both)])
            found[label] = (means[:, 0].tolist(), means[:, 1].tolist())
    return found
