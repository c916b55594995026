"""Panels of a patient's page: input, truth, prediction, probability, as images of few pixels."""

import io
from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures.style import data_url
from fp4jax.analysis.report import html
from fp4jax.extras import Extra
from fp4jax.predict.slice_picture import FALSE_ALARM, HIT, MISS, overlay, rgb

if TYPE_CHECKING:
    from fp4jax.train.patients import Examples


def input_panel(examples: "Examples", place: int) -> str:
    """The image, of three channels as red, green and blue."""
    caption = f"input, slice {examples.slices[place]}"
    return html.figure(_url(rgb(examples.images[place])), caption, pixels=True)


def truth_panel(examples: "Examples", place: int) -> str:
    """The lesion as it was drawn by whoever labelled the data."""
    truth = examples.masks[place] > 0
    return html.figure(_url(overlay(_grey(examples, place), {HIT: truth})), "truth", pixels=True)


def result_panels(
    examples: "Examples", place: int, threshold: float, label: str, dice: float | None
) -> str:
    """Prediction with its errors, and the probability below.

    Args:
        examples: of a run.
        place: of the patient in them.
        threshold: from which a pixel counts as lesion.
        label: of the run.
        dice: of the whole volume; None where it is not defined.
    """
    truth = examples.masks[place] > 0
    probability = examples.probabilities[place].astype(np.float32)
    predicted = probability > threshold
    colours = {HIT: truth & predicted, FALSE_ALARM: predicted & ~truth, MISS: truth & ~predicted}
    scored = "Dice not defined" if dice is None else f"Dice {dice:.3f}"
    grey = np.round(255 * np.clip(probability, 0, 1)).astype(np.uint8)
    shown = (
        (overlay(_grey(examples, place), colours), f"{label}: {scored}"),
        (np.repeat(grey[..., None], 3, -1), f"probability, threshold {threshold:.2f}"),
    )
    return f"<div>{''.join(html.figure(_url(p), text, pixels=True) for p, text in shown)}</div>"


def _grey(examples: "Examples", place: int) -> np.ndarray:
    image = rgb(examples.images[place])
    return np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)


def _url(pixels: np.ndarray) -> str:
    """An image (h, w, 3) as the source of a figure; equal ones give equal bytes."""
    with Extra("study"):
        from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return data_url(buffer.getvalue())
