"""Prediction pictures: input, truth, prediction and error of the best, median and worst patient."""

from pathlib import Path

import numpy as np

from fp4jax.core.typing import Shaped
from fp4jax.data import Cohort
from fp4jax.extras import Extra
from fp4jax.files import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart.
HIT, FALSE_ALARM, MISS = (0, 158, 115), (230, 159, 0), (204, 0, 102)


def ranked_patients(dice: dict[str, float]) -> list[tuple[str, str]]:
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
    cohort: Cohort,
    probabilities: Shaped[np.ndarray, "n h w"],
    dice: dict[str, float],
    threshold: float,
    path: Path,
    title: str = "",
) -> None:
    """Writes a PNG with a row for each of :func:`ranked_patients`.

    The slice shown is the one with the largest lesion. Columns: the image (channels as red, green
    and blue), truth, probability, and the error: hits green, false alarms orange, misses red.

    Args:
        cohort: the slices that were predicted.
        probabilities: of the lesion, a map per slice.
        dice: volumetric Dice of each patient of the cohort.
        threshold: above which a pixel counts as lesion.
        path: of the PNG; an existing file is replaced.
        title: is written above.
    """
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    rows = ranked_patients(dice)
    figure = Figure(figsize=(10.4, 2.6 * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for (what, patient), row in zip(rows, axes, strict=True):
        own = np.flatnonzero(cohort.patient_ids == patient)
        place = own[np.argmax(cohort.masks[own].sum((1, 2)))]
        truth, predicted = cohort.masks[place] > 0, probabilities[place] > threshold
        image = rgb(cohort.images[place])
        grey = np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
        panels = (
            (f"{what}: {patient}, slice {cohort.slice_index[place]}", image),
            ("truth", overlay(grey, {HIT: truth})),
            ("probability", probabilities[place]),
            (
                f"prediction, Dice {dice[patient]:.3f}",
                overlay(
                    grey,
                    {
                        HIT: truth & predicted,
                        FALSE_ALARM: predicted & ~truth,
                        MISS: truth & ~predicted,
                    },
                ),
            ),
        )
        for axis, (label, panel) in zip(row, panels, strict=True):
            axis.imshow(panel, cmap="magma", vmin=0, vmax=1 if panel.ndim == 2 else None)
            axis.set_title(label, fontsize=8)
            axis.set_axis_off()
    figure.suptitle(
        f"{title}\nhits green, false alarms orange, misses red; threshold {threshold:.2f}".strip(),
        fontsize=9,
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


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
