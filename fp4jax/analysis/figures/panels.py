"""A grid of panels: architectures by scales."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fp4jax.analysis.figures.style import (
    FAINT,
    WIDTH,
    look,
    ordered_archs,
    ordered_labels,
    ordered_scales,
    shown,
    title,
)
from fp4jax.extras import Extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Group = tuple[str, str]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure with room for all labels, in inches."""
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def places(groups: Iterable[Group]) -> tuple[int, int, dict[Group, tuple[int, int]]]:
    """Rows, columns and the place of each (architecture, scale), in order.

    Rows are architectures and columns scales; with one scale, architectures lie side by side.

    Example:
        >>> places([("cnn", "4m"), ("cnn", "500k"), ("swin", "4m")])[2]
        {('swin', '4m'): (0, 1), ('cnn', '500k'): (1, 0), ('cnn', '4m'): (1, 1)}
    """
    groups = set(groups)
    archs, scales = ordered_archs(a for a, _ in groups), ordered_scales(s for _, s in groups)
    if len(scales) == 1:
        return 1, len(archs), {(arch, scales[0]): (0, i) for i, arch in enumerate(archs)}
    found = {
        (arch, scale): (i, j)
        for i, arch in enumerate(archs)
        for j, scale in enumerate(scales)
        if (arch, scale) in groups
    }
    return len(archs), len(scales), found


def grid(
    groups: Iterable[Group],
    height: float,
    *,
    width: float = 4.2,
    share_x: bool = True,
    share_y: Any = True,
) -> tuple["Figure", dict[Group, "Axes"]]:
    """A panel at each of :func:`places`; the others stay empty.

    Args:
        groups: pairs of architecture and scale.
        height: of a panel, inches.
        width: of a panel if they are few, inches.
        share_x: all panels have the same limits of x, shown at the bottom.
        share_y: of y, as ``Figure.subplots`` has it.
    """
    rows, columns, found = places(groups)
    figure = new_figure(min(WIDTH, 0.8 + width * columns), height * rows + 0.5)
    axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)  # pyright: ignore
    for axis in axes.ravel():
        axis.set_axis_off()
    for (arch, scale), place in found.items():
        axes[place].set_axis_on()
        axes[place].set_title(title(arch, scale), fontsize=10)
        tidy(axes[place])
    return figure, {group: axes[place] for group, place in found.items()}


def tidy(axis: "Axes") -> None:
    """Small numbers, faint lines across, no frame at the top and right."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", labelsize=8)


def label_ticks(axis: "Axes", labels: list[str]) -> None:
    """Names of labels along x, at 0, 1, 2, ..."""
    axis.set_xticks(range(len(labels)), [shown(x) for x in labels], fontsize=8)
    for text in axis.get_xticklabels():
        text.set(rotation=35, ha="right", rotation_mode="anchor")


def limits(values: np.ndarray, ends: np.ndarray, least: float) -> tuple[float, float]:
    """Of an axis: all values, and intervals' ends as far as they do not dwarf these.

    Args:
        values: are all shown.
        ends: of intervals, NaN where there is none; shown if they lie no further from the values
            than these from each other.
        least: the values are taken to spread over this much at least.

    Example:
        >>> low, high = limits(np.array([0.5, 0.6]), np.array([-9.0, 0.65]), 0.05)
        >>> round(low, 3), round(high, 3)
        (0.382, 0.668)
    """
    low, high = float(np.min(values)), float(np.max(values))
    room = max(high - low, least)
    known = ends[np.isfinite(ends)]
    low, high = (
        min(low, max(float(np.min(known, initial=low)), low - room)),
        max(high, min(float(np.max(known, initial=high)), high + room)),
    )
    margin = 0.06 * (high - low + least)
    return low - margin, high + margin


def lowest(axes: dict[Group, "Axes"]) -> list["Axes"]:
    """The lowest panel of each column: those that say what x is."""
    _, _, found = places(axes)
    last = {
        column: max(i for i, j in found.values() if j == column) for _, column in found.values()
    }
    return [axes[group] for group, (i, j) in found.items() if last[j] == i]


def legend_below(figure: "Figure", labels: Iterable[str], *, lines: bool) -> None:
    """One legend for all panels: the look of each label, as dots or as lines with dots."""
    with Extra("study"):
        from matplotlib.lines import Line2D

    names = ordered_labels(labels)
    handles = [
        Line2D([], [], **(look(x).dots() | (look(x).curve() if lines else {})), label=shown(x))
        for x in names
    ]
    columns = max(1, min(len(names), int(figure.get_figwidth() / 2.0)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def marked(label: str, place: int, points: int) -> dict[str, Any]:
    """Arguments of ``Axes.plot`` for a line with a few dots, elsewhere for each label."""
    step = max(1, points // 6)
    return look(label).dots() | look(label).curve() | {"markevery": (place % step, step)}
