"""picture: what a cohort looks like, on one page."""

import os
from pathlib import Path

import numpy as np

from fp4jax.data.cohort import Cohort
from fp4jax.extras import Extra
from fp4jax.files import expanded, replacing


def picture(cohort: Cohort, path: str | os.PathLike, patients: int = 8) -> Path:
    """Writes an overview PNG: the channels of some patients with the outline of the mask.

    Each patient is shown at the slice with the largest mask, two patients in a row of the page.
    Needs matplotlib.

    Args:
        cohort: any cohort.
        path: of the PNG file; an existing one is replaced.
        patients: how many to show at most, spread over the cohort.

    Raises:
        ValueError: fewer than one patient, or a path that does not end in .png.
    """
    target = expanded(path) or Path()
    if patients < 1:
        raise ValueError(f"patients is {patients}; at least one has to be shown.")
    if target.suffix.lower() != ".png":
        raise ValueError(f"path is {str(target)!r}; give a name that ends in .png.")
    with Extra("study"):
        from matplotlib.figure import Figure

    ids = cohort.patients
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(patients, len(ids))).round().astype(int))
    channels = len(cohort.channels)
    rows = -(-len(chosen) // 2)
    figure = Figure(figsize=(2 * channels * 1.8, rows * 2.0), layout="constrained")
    axes = figure.subplots(rows, 2 * channels, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for place, number in enumerate(chosen):
        one = np.flatnonzero(cohort.patient_ids == ids[number])
        best = one[np.argmax(cohort.masks[one].sum((1, 2), dtype=int))]
        first = place % 2 * channels
        for c, channel in enumerate(cohort.channels):
            ax = axes[place // 2, first + c]
            ax.imshow(cohort.images[best, :, :, c], cmap="gray", vmin=0, vmax=255)
            if cohort.masks[best].any():
                ax.contour(cohort.masks[best], [0.5], colors="red", linewidths=0.7)
            title = f"{ids[number]}, slice {cohort.slice_index[best]}" if c == 0 else channel
            ax.set_title(title, fontsize=7)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return target
