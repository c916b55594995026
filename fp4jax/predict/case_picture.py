"""picture_of_case: three planes through a case's lesion, with truth and prediction outlined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fp4jax.core.typing import Float, UInt8
from fp4jax.data.nifti import LoadedCase
from fp4jax.extras import Extra
from fp4jax.files import replacing
from fp4jax.predict.slice_picture import DRAWING

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#F0E442")
# Of the voxels that are not 0, what is shown as black and as white, percentiles.
_WINDOW = (1, 99.5)
# name, axis that is cut, axes to the right and up
_PLANES = (("axial", 2, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 0, (1, 2)))


def centre_of(mask: np.ndarray) -> tuple[int, int, int]:
    """Along each axis the place of the largest cross-section; the middle if the mask is empty.

    Example:
        >>> mask = np.zeros((4, 5, 6), np.uint8)
        >>> mask[1, 2, 3:5] = 1
        >>> centre_of(mask)
        (1, 2, 3)
    """
    if not mask.any():
        x, y, z = (n // 2 for n in mask.shape)
    else:
        x, y, z = (
            int(np.argmax(mask.sum(tuple(a for a in range(3) if a != axis), dtype=np.int64)))
            for axis in range(3)
        )
    return x, y, z


def need_matplotlib() -> None:
    """Raises ModuleNotFoundError, with what to install, where nothing can be drawn."""
    with Extra("study"):
        import matplotlib.figure  # noqa: F401


def picture_of_case(path: Path, case: LoadedCase, predicted: UInt8[np.ndarray, "x y z k"]) -> None:
    """:func:`picture` of a case, with its labels if it has any."""
    with DRAWING:
        picture(
            path,
            case.image,
            predicted,
            case.target,
            modalities=case.modalities,
            regions=case.regions,
            spacing=case.spacing,
            title=case.id,
        )


def picture(
    path: Path,
    image: Float[np.ndarray, "x y z c"],
    predicted: UInt8[np.ndarray, "x y z k"],
    target: UInt8[np.ndarray, "x y z k"] | None,
    *,
    modalities: Sequence[str],
    regions: Sequence[str],
    spacing: tuple[float, float, float],
    title: str = "",
) -> None:
    """Writes a PNG: a row per channel; axial, coronal and sagittal cuts through the lesion.

    The cuts are where the union of the target's regions (the prediction's, without a target) has
    its largest cross-sections. Outlines: predictions solid, truth dashed, a colour per region. The
    axes are those of the arrays (right, anterior, superior), the first to the right, the last up;
    so the patient's right is on the right. Voxels have their shape in millimetres. Needs
    matplotlib.

    Args:
        path: of the PNG; an existing file is replaced.
        image: the channels.
        predicted, target: 0 and 1 for each region.
        modalities, regions: names of the channels of image and masks.
        spacing: edges of a voxel, mm.
        title: is written above.
    """
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    centre = centre_of((predicted if target is None else target).max(-1))
    rows = image.shape[-1]
    # A canvas of its own: whatever MPLBACKEND says, nothing is shown and no back end is loaded.
    figure = Figure(figsize=(9.6, 3.1 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    for channel, row in enumerate(axes):
        volume = image[..., channel]
        low, high = _window(volume)
        for axis, (name, cut, (right, up)) in zip(row, _PLANES, strict=True):
            at = centre[cut]
            slice_ = volume.take(at, cut).T
            # What is 0 is background, whatever the z-scores of the brain.
            shown = np.where(slice_ == 0, low, slice_)
            edges = spacing[up] / spacing[right]
            axis.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=edges)
            _outlines(axis, predicted.take(at, cut), "solid")
            if target is not None:
                _outlines(axis, target.take(at, cut), "dashed")
            axis.set_title(f"{modalities[channel]}, {name} {at}", fontsize=8)
            axis.set_axis_off()
    _legend(figure, regions, target is not None)
    figure.suptitle(f"{title} (the patient's right is on the right)".strip(), fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _window(volume: np.ndarray) -> tuple[float, float]:
    """What is shown as black and as white."""
    inside = volume[volume != 0]
    low, high = np.percentile(inside, _WINDOW) if inside.size else (0.0, 1.0)
    return float(low), float(high)


def _legend(figure, regions: Sequence[str], has_target: bool) -> None:
    with Extra("study"):
        from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=_COLOURS[k % len(_COLOURS)], label=region)
        for k, region in enumerate(regions)
    ]
    lines.append(Line2D([], [], color="grey", label="prediction"))
    if has_target:
        lines.append(Line2D([], [], color="grey", linestyle="dashed", label="truth"))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), fontsize=8)


def _outlines(axis, masks: np.ndarray, style: str) -> None:
    """The regions of a cut (right, up, k)."""
    for k in range(masks.shape[-1]):
        mask = masks[..., k]
        # matplotlib warns about contours of nothing.
        if mask.any() and not mask.all():
            colour = _COLOURS[k % len(_COLOURS)]
            axis.contour(mask.T, [0.5], colors=colour, linewidths=0.9, linestyles=style)
