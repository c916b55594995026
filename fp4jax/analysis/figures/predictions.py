"""Predictions of all labels for a few test patients of an architecture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.style import BASELINE, ordered_labels, ordered_scales, shown, title
from fp4jax.predict.slice_picture import (
    FALSE_ALARM,
    HIT,
    MISS,
    overlay,
    ranked_patients,
    rgb,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult
    from fp4jax.train.patients import Examples

_PANEL = 1.9


def prediction_grid(runs: "Sequence[RunResult]") -> "Figure | None":
    """Input, truth and each label's prediction, for the best, the median and the worst patient.

    Patients are ranked by the baseline's volumetric Dice at the first scale, and are the same for
    all scales. All predictions are of one split and seed, that which most labels have; each is at
    its run's threshold. Hits are green, false alarms orange, misses magenta.

    Args:
        runs: of one architecture.

    Returns:
        None if no run kept slices to show.

    Raises:
        ValueError: runs of several architectures.
    """
    archs = {run.config.arch for run in runs}
    if len(archs) > 1:
        raise ValueError(f"predictions of {sorted(archs)}; give runs of one architecture.")
    shown_runs = one_seed([run for run in runs if (run.path / "examples.npz").exists()])
    if not shown_runs:
        return None
    labels = ordered_labels(run.label for run in shown_runs)
    scales = ordered_scales(run.config.scale for run in shown_runs)
    by_place = {(run.config.scale, run.label): run for run in shown_runs}
    first = next(by_place[s, x] for s in scales for x in labels if (s, x) in by_place)
    dice = {k: v for k, v in first.summary["test_patients"].items() if v is not None}
    patients = ranked_patients(dice)
    rows = [(scale, *chosen) for scale in scales for chosen in patients]
    headings = ["input", "truth", *(shown(label).replace(" ", "\n") for label in labels)]
    columns = len(headings)
    side = min(_PANEL, panels.WIDTH / columns)
    size = _font(headings, side)
    lines = max(text.count("\n") for text in headings) + 1
    height = (0.97 * side + 1.9 * size / 72) * len(rows) + 0.41 + 1.4 * lines * size / 72
    figure = panels.new_figure(side * columns + 0.3, height)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0, hspace=0)  # pyright: ignore
    axes = figure.subplots(len(rows), columns, squeeze=False)
    examples = {key: run.examples() for key, run in by_place.items()}
    for row, (scale, what, patient) in zip(axes, rows, strict=True):
        _row(row, labels, scale, patient, by_place, examples, size)
        row[0].set_ylabel(f"{title(first.config.arch, scale)}\n{what}", fontsize=size)
    for axis, text in zip(axes[0], headings, strict=True):
        axis.annotate(
            text,
            (0.5, 1),
            (0, size + 5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=size,
            fontweight="bold",
        )
    config = shown_runs[0].config
    regions = ", mean over regions" if "test_regions" in first.summary else ""
    figure.suptitle(
        f"{title(config.arch)}, {config.split}, seed {config.seed}: hits green, false alarms "
        f"orange, misses magenta; Dice of the whole volume{regions}",
        fontsize=9,
    )
    return figure


def one_seed(runs: "Sequence[RunResult]") -> "list[RunResult]":
    """The runs of the split and seed that most runs have, of equal ones the first."""
    found: dict[tuple[str, int], list] = {}
    for run in runs:
        found.setdefault((run.config.split, run.config.seed), []).append(run)
    if not found:
        return []
    with_reference = {k: v for k, v in found.items() if any(r.label == BASELINE for r in v)}
    candidates = with_reference or found
    return candidates[min(candidates, key=lambda key: (-len(candidates[key]), key))]


def _row(row, labels: list[str], scale: str, patient: str, runs, examples, size: float) -> None:
    """Panels of one patient at one scale."""
    for axis in row:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    reference = next(examples[scale, x] for x in labels if (scale, x) in examples)
    place = _place(reference, patient)
    if place is None:
        return
    image, truth = rgb(reference.images[place]), reference.masks[place] > 0
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    row[0].imshow(image)
    row[0].set_title(_short(f"{patient}, {reference.slices[place]}"), fontsize=size, pad=2)
    row[1].imshow(overlay(grey, {HIT: truth}))
    for axis, label in zip(row[2:], labels, strict=True):
        if (scale, label) not in runs:
            continue
        run, own = runs[scale, label], examples[scale, label]
        place = _place(own, patient)
        if place is None:
            continue
        predicted = own.probabilities[place] > run.summary["threshold"]
        colours = {
            HIT: truth & predicted,
            FALSE_ALARM: predicted & ~truth,
            MISS: truth & ~predicted,
        }
        axis.imshow(overlay(grey, colours))
        dice = run.summary["test_patients"].get(patient)
        text = "Dice not defined" if dice is None else f"Dice {dice:.2f}"
        axis.set_title(text, fontsize=size, pad=2)


def _font(headings: list[str], side: float) -> float:
    """Points at which the longest line is as wide as a panel, or a little less."""
    longest = max(len(line) for text in headings for line in text.split("\n"))
    return float(np.clip(72 * side / (0.68 * longest), 6, 8))


def _short(text: str, most: int = 20) -> str:
    """The end of a long id tells patients apart."""
    return text if len(text) <= most else "…" + text[1 - most :]


def _place(examples: "Examples", patient: str) -> int | None:
    found = np.flatnonzero(examples.patients == patient)
    return int(found[0]) if len(found) else None
