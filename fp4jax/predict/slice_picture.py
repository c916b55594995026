"""Prediction pictures: input, truth, prediction and error of the best, median and worst patient."""

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fp4jax.extras import Extra
from fp4jax.files import replacing
from fp4jax.train.patients import Examples

# Okabe and Ito's colours, which colour-blind readers can tell apart.
HIT, FALSE_ALARM, MISS = (0, 158, 115), (230, 159, 0), (204, 0, 102)
#: matplotlib may be used by one thread at a time; trackers have theirs.
DRAWING = threading.Lock()


def ranked_patients(dice: Mapping[str, float]) -> list[tuple[str, str]]:
    """(what, patient) for the best, the median and the worst Dice; fewer if there are fewer.

    Example:
        >>> ranked_patients({"a": 0.9, "b": 0.2, "c": 0.5})
        [('best', 'a'), ('median', 'c'), ('worst', 'b')]
    """
    order = sorted(dice, key=lambda patient: (-dice[patient], patient))
    chosen = {}
    for what, place in (("best", 0), ("worst", len(order) - 1), ("median", len(order) // 2)):
        if order:
            chosen.setdefault(order[place], what)
    return [(chosen[p], p) for p in order if p in chosen]


def picture(
    path: Path, examples: Examples, dice: Mapping[str, float], threshold: float, title: str = ""
) -> None:
    """Writes a PNG with a row for each of :func:`ranked_patients`.

    Columns: the image (channels as red, green and blue), truth, probability, and the error: hits
    green, false alarms orange, misses magenta. Needs matplotlib.

    Args:
        path: of the PNG; an existing file is replaced.
        examples: a slice of each patient.
        dice: volumetric Dice of each patient.
        threshold: from which a pixel counts as lesion.
        title: is written above.
    """
    with DRAWING:
        _draw(path, examples, dice, threshold, title)


def _draw(
    path: Path, examples: Examples, dice: Mapping[str, float], threshold: float, title: str
) -> None:
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    names = examples.patients.tolist()
    rows = ranked_patients({name: dice[name] for name in names if name in dice})
    # A canvas of its own: whatever MPLBACKEND says, nothing is shown and no back end is loaded.
    figure = Figure(figsize=(10.4, 2.6 * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for (what, patient), row in zip(rows, axes, strict=True):
        place = names.index(patient)
        labels = (
            f"{what}: {patient}, slice {examples.slices[place]}",
            "truth",
            "probability",
            f"prediction, Dice {dice[patient]:.3f}",
        )
        for axis, label, panel in zip(
            row, labels, _panels(examples, place, threshold), strict=True
        ):
            axis.imshow(panel, cmap="magma", vmin=0, vmax=1 if panel.ndim == 2 else None)
            axis.set_title(label, fontsize=8)
            axis.set_axis_off()
    legend = f"hits green, false alarms orange, misses magenta; threshold {threshold:.2f}"
    figure.suptitle(f"{title}\n{legend}".strip(), fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _panels(examples: Examples, place: int, threshold: float) -> tuple[np.ndarray, ...]:
    """Image, truth, probability and error of a slice."""
    probability = examples.probabilities[place].astype(np.float32)
    truth, predicted = examples.masks[place] > 0, probability >= threshold
    image = rgb(examples.images[place])
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    error = {HIT: truth & predicted, FALSE_ALARM: predicted & ~truth, MISS: truth & ~predicted}
    return image, overlay(grey, {HIT: truth}), probability, overlay(grey, error)


def rgb(image: np.ndarray) -> np.ndarray:
    """Three channels: missing ones repeat the first, further ones are left out."""
    channels = [min(c, image.shape[-1] - 1) for c in range(3)]
    return image[..., channels]


def overlay(grey: np.ndarray, colours: dict[tuple[int, int, int], np.ndarray]) -> np.ndarray:
    """The picture with pixels of each mask tinted in its colour."""
    mixed = grey.copy()
    for colour, where in colours.items():
        mixed[where] = (0.35 * grey[where] + 0.65 * np.array(colour)).astype(np.uint8)
    return mixed
