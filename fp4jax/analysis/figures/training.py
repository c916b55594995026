"""Training curves of the labels of one architecture and scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.style import look, ordered_labels, title
from fp4jax.extras import Extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fp4jax.analysis.results import RunResult

# key of a record of metrics.jsonl, heading, whether the axis is logarithmic
_PANELS = (
    ("train_loss", "training loss", False),
    ("val_loss", "validation loss", False),
    ("val_auprc", "validation AUPRC", False),
    ("val_hard_f2_score", "validation F2 at 0.5", False),
    ("val_dice", "validation Dice", False),
    ("grad_norm", "gradient norm", True),
    ("learning_rate", "learning rate", True),
)


def training_curves(runs: "Sequence[RunResult]") -> "Figure | None":
    """Losses, validation metrics, gradient norm and learning rate over epochs.

    A thick line per label is the mean of the runs that reached the epoch, thin lines are runs.
    PTQ trains nothing and has no line.

    Args:
        runs: of one architecture and scale.

    Returns:
        None if no run has a history.

    Raises:
        ValueError: runs of several architectures or scales.
    """
    groups = {(run.config.arch, run.config.scale) for run in runs}
    if len(groups) > 1:
        raise ValueError(f"training curves of {sorted(groups)}; give runs of one of them.")
    histories: dict[str, list[list[dict]]] = {}
    for run in runs:
        history = run.history()
        if history:
            histories.setdefault(run.label, []).append(history)
    if not histories:
        return None
    labels = ordered_labels(histories)
    shown = _panels({key for runs in histories.values() for run in runs for r in run for key in r})
    rows = -(-len(shown) // 3)
    figure = panels.new_figure(panels.WIDTH, 2.8 * rows)
    axes = figure.subplots(rows, 3, sharex=True, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    axes = axes[: len(shown)]
    for axis, (key, heading, logarithmic) in zip(axes, shown, strict=True):
        axis.set_title(heading, fontsize=9)
        panels.tidy(axis)
        for place, label in enumerate(labels):
            _lines(axis, histories[label], key, label, place)
        if logarithmic and any((line.get_ydata() > 0).any() for line in axis.lines):
            axis.set_yscale("log")
    for axis in axes[-3:]:
        axis.set_xlabel("epoch", fontsize=9)
        axis.tick_params(labelbottom=True)
        axis.xaxis.get_major_locator().set_params(integer=True)
    ((arch, scale),) = groups
    figure.suptitle(title(arch, scale), fontsize=11)
    panels.legend_below(figure, labels, lines=True)
    return figure


def _panels(known: set[str]) -> list[tuple[str, str, bool]]:
    """What is drawn of the records' keys: of volumes also the Dice of each region."""
    shown = [panel for panel in _PANELS if panel[0] in known]
    if "val_auprc" in known:
        # Of slices: at no threshold, and told by the others.
        return [panel for panel in shown if panel[0] != "val_dice"]
    start = "val_dice_"
    regions = sorted(key.removeprefix(start) for key in known if key.startswith(start))
    return shown + [(start + name, f"validation Dice, {name}", False) for name in regions]


def _lines(axis, histories: list[list[dict]], key: str, label: str, place: int) -> None:
    with Extra("study"):
        from matplotlib.collections import LineCollection

    epochs = max(record["epoch"] for history in histories for record in history)
    values = np.full((len(histories), epochs), np.nan)
    for row, history in zip(values, histories, strict=True):
        for record in history:
            value = record.get(key)
            row[record["epoch"] - 1] = np.nan if value is None else value
    x = np.arange(1, epochs + 1)
    if len(values) > 1:
        # Epochs without a validation are passed over. One artist: there may be a thousand lines.
        known = (np.isfinite(row) for row in values)
        own = [np.stack([x[k], row[k]], -1) for k, row in zip(known, values, strict=True)]
        axis.add_collection(LineCollection(own, **look(label).curve(), linewidth=0.6, alpha=0.35))
    count = np.isfinite(values).sum(0)
    mean = np.nansum(values, 0) / np.maximum(count, 1)
    own = count > 0
    axis.plot(x[own], mean[own], **panels.marked(label, place, int(own.sum())), linewidth=1.6, ms=4)
