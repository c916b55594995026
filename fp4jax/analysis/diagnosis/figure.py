"""The picture of a diagnosis: layers along x, a panel per quantity, a column per state."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fp4jax.analysis.diagnosis.gradients import TOTAL
from fp4jax.analysis.diagnosis.table import REFERENCE, Row
from fp4jax.extras import Extra
from fp4jax.files import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_GREY = "#888888"
_MARKERS = "o^s"


class _Line(NamedTuple):
    """A quantity in a panel: how it is drawn says which one, the colour says which recipe."""

    label: str
    quantity: str
    of: str
    style: str


class _Panel(NamedTuple):
    title: str
    lines: tuple[_Line, ...]
    # drawn in grey, of the reference
    reference: _Line | None = None
    log: bool = False


_PANELS = (
    *(
        _Panel(
            f"SQNR of {gemm}'s operands [dB]",
            tuple(
                _Line(o, "sqnr_db", f"{gemm}.{o}", s)
                for o, s in zip(operands, ("o-", "^:"), strict=True)
            ),
        )
        for gemm, operands in (("fprop", "xw"), ("dgrad", "gw"), ("wgrad", "xg"))
    ),
    _Panel(
        "relative error of products",
        tuple(
            _Line(gemm, "relative_error", gemm, style)
            for gemm, style in (("fprop", "o-"), ("dgrad", "s--"), ("wgrad", "^:"))
        ),
        log=True,
    ),
    _Panel(
        "weight gradients of the whole model: noise / signal",
        (
            _Line("E|g_q - g|² / |g|²", "noise_to_signal", "gradient", "o-"),
            _Line("from the backward pass alone", "backward_noise_to_signal", "gradient", "^:"),
        ),
        _Line("minibatch", "minibatch", "gradient", "-"),
        log=True,
    ),
    _Panel(
        "attention entropy / log n",
        (_Line("quantized q, k, v", "entropy", "attention", "o-"),),
        _Line("high precision", "entropy", "attention", "-"),
    ),
    _Panel(
        "distinct attention levels / n",
        (_Line("quantized q, k, v", "level_share", "attention", "o-"),),
        _Line("high precision", "level_share", "attention", "-"),
    ),
    _Panel(
        "quantized P: distinct values / n",
        (
            _Line("distinct values / n", "level_share", "probabilities", "o-"),
            _Line("zeros", "zeros", "probabilities", "^:"),
        ),
    ),
    _Panel(
        "quantized P: entropy / log n",
        (_Line("of the row of P", "entropy", "probabilities", "o-"),),
        _Line("high precision", "entropy", "attention", "-"),
    ),
)
_OF_ATTENTION = ("attention", "probabilities")
_ATTENTION = {panel.title for panel in _PANELS if panel.lines[0].of in _OF_ATTENTION}


def draw(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Writes a PNG of the rows of :func:`fp4jax.analysis.diagnosis.diagnose`.

    Operands in high precision have no SQNR and are left out, as are panels without values
    (attention, for a CNN).

    Args:
        rows: of one run.
        path: of the PNG; an existing file is replaced.
        title: is written above.
    """
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    states = list(dict.fromkeys(row["state"] for row in rows))
    recipes = [n for n in dict.fromkeys(row["recipe"] for row in rows) if n != REFERENCE]
    values = {
        (r["state"], r["recipe"], r["quantity"], r["of"], r["layer"]): r["value"] for r in rows
    }
    panels = [panel for panel in _PANELS if _layers(rows, [panel])]
    # Panels of the same things share their places and names along x.
    groups = [
        [panel for panel in panels if (panel.title in _ATTENTION) == on] for on in (False, True)
    ]
    names = {panel.title: _layers(rows, group) for group in groups for panel in group}
    last = {group[-1].title for group in groups if group}
    widest = max(map(len, names.values()))
    size = (len(states) * min(max(6.0, 0.24 * widest), 11.0), 1.9 * len(panels) + 2.2)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(len(panels), len(states), squeeze=False, sharey="row")
    for panel, row in zip(panels, grid, strict=True):
        layers = names[panel.title]
        for axis, state in zip(row, states, strict=True):
            for i, recipe in enumerate(recipes):
                for line in panel.lines:
                    keys = [(state, recipe, line.quantity, line.of, name) for name in layers]
                    _plot(axis, layers, [values.get(key) for key in keys], line.style, i)
            if panel.reference is not None:
                line = panel.reference
                keys = [(state, REFERENCE, line.quantity, line.of, name) for name in layers]
                _plot(axis, layers, [values.get(key) for key in keys], line.style, None)
            _finish(axis, panel, layers if panel.title in last else len(layers))
            axis.set_title(f"{panel.title}, {state}", fontsize=9)
        _explain(row[0], panel)
    handles = [_handle("-", _colour(i)) for i in range(len(recipes))]
    figure.legend(handles, recipes, loc="outside lower center", ncols=len(recipes), fontsize=9)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _colour(recipe: int | None) -> str:
    return _GREY if recipe is None else _COLOURS[recipe % len(_COLOURS)]


def _layers(rows: Iterable[Row], panels: Iterable[_Panel]) -> list[str]:
    """Layers of which one of the panels shows a value, "total" last."""
    wanted = {(line.quantity, line.of) for panel in panels for line in panel.lines}
    names = [
        row["layer"]
        for row in rows
        if (row["quantity"], row["of"]) in wanted and math.isfinite(row["value"])
    ]
    return sorted(dict.fromkeys(names), key=lambda name: name == TOTAL)


def _plot(
    axis: Any,
    layers: Sequence[str],
    heights: Sequence[float | None],
    style: str,
    recipe: int | None,
) -> None:
    """A line through the layers; the total stands apart. Later recipes are thinner, so that equal
    ones do not hide each other."""
    found = [
        (i, h, layers[i] == TOTAL)
        for i, h in enumerate(heights)
        if h is not None and math.isfinite(h) and h != 0
    ]
    width = 1.0 if recipe is None else max(2.4 - 0.6 * recipe, 0.9)
    look: Any = {"color": _colour(recipe), "linewidth": width, "markersize": 2.5 + width}
    for total in (False, True):
        points = [(i, h) for i, h, is_total in found if is_total == total]
        if points:
            alone = style if style[0] in _MARKERS else f"_{style}"
            axis.plot(*zip(*points, strict=True), alone if total else style, **look)


def _finish(axis: Any, panel: _Panel, layers: Sequence[str] | int) -> None:
    if panel.log:
        axis.set_yscale("log", nonpositive="mask")
    if isinstance(layers, int):
        axis.set_xticks(range(layers), [""] * layers)
        count = layers
    else:
        axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
        count = len(layers)
    axis.set_xlim(-0.5, count - 0.5)
    if panel.title in _ATTENTION:
        axis.set_ylim(0, 1.05)
    axis.tick_params(axis="y", which="both", labelsize=7)
    axis.grid(alpha=0.25)


def _explain(axis: Any, panel: _Panel) -> None:
    """Which line is which."""
    lines = [(line, "black") for line in panel.lines]
    if panel.reference is not None:
        lines.append((panel.reference, _GREY))
    handles = [_handle(line.style, colour) for line, colour in lines]
    axis.legend(handles, [line.label for line, _ in lines], fontsize=7, loc="best", framealpha=0.6)


def _handle(style: str, colour: str) -> Any:
    with Extra("study"):
        from matplotlib.lines import Line2D

    marker = style[0] if style[0] in _MARKERS else None
    dashes: Any = style.lstrip(_MARKERS) or "-"
    return Line2D([], [], color=colour, marker=marker, linestyle=dashes, markersize=4, linewidth=1)
