"""The picture of a diagnosis: layers from left to right, a panel per quantity, a column per state."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fp4jax.analysis.diagnosis.table import REFERENCE, Row
from fp4jax.train.folder import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_GREY = "#888888"


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
        "weight gradient, whole backward pass: noise / signal",
        (
            _Line("E|g_q - g|² / |g|²", "noise_to_signal", "gradient", "o-"),
            _Line("of which bias²", "bias", "gradient", "^:"),
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
)


def draw(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Writes a PNG of the rows of :func:`fp4jax.analysis.diagnosis.diagnose`.

    Operands in high precision have no SQNR and are left out, as are panels without values
    (attention, for a CNN).

    Args:
        rows: of one run.
        path: of the PNG; an existing file is replaced.
        title: is written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    states = list(dict.fromkeys(row["state"] for row in rows))
    recipes = [n for n in dict.fromkeys(row["recipe"] for row in rows) if n != REFERENCE]
    values = {
        (r["state"], r["recipe"], r["quantity"], r["of"], r["layer"]): r["value"] for r in rows
    }
    panels = [panel for panel in _PANELS if _layers(rows, panel)]
    widest = max(len(_layers(rows, panel)) for panel in panels)
    size = (len(states) * min(max(6.0, 0.24 * widest), 11.0), 2.3 * len(panels) + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(len(panels), len(states), squeeze=False, sharey="row")
    for panel, row in zip(panels, grid, strict=True):
        layers = _layers(rows, panel)
        for axis, state in zip(row, states, strict=True):
            for recipe, colour in zip(recipes, _colours(recipes), strict=True):
                for line in panel.lines:
                    keys = [(state, recipe, line.quantity, line.of, name) for name in layers]
                    _plot(axis, [values.get(key) for key in keys], line.style, colour)
            if panel.reference is not None:
                line = panel.reference
                keys = [(state, REFERENCE, line.quantity, line.of, name) for name in layers]
                _plot(axis, [values.get(key) for key in keys], line.style, _GREY)
            _finish(axis, panel, layers, f"{panel.title}, {state}", panel in (panels[0], panels[3]))
        _explain(row[0], panel)
    handles = [_handle("-", colour) for colour in _colours(recipes)]
    figure.legend(handles, recipes, loc="outside lower center", ncols=len(recipes), fontsize=9)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _colours(recipes: Sequence[str]) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(len(recipes))]


def _layers(rows: Iterable[Row], panel: _Panel) -> list[str]:
    """Layers of which the panel shows a value."""
    wanted = {(line.quantity, line.of) for line in panel.lines}
    names = (
        row["layer"]
        for row in rows
        if (row["quantity"], row["of"]) in wanted and math.isfinite(row["value"])
    )
    return list(dict.fromkeys(names))


def _plot(axis: Any, heights: Sequence[float | None], style: str, colour: str) -> None:
    places = [
        (i, h) for i, h in enumerate(heights) if h is not None and math.isfinite(h) and h != 0
    ]
    if places:
        axis.plot(*zip(*places, strict=True), style, color=colour, markersize=3.5, linewidth=1)


def _finish(axis: Any, panel: _Panel, layers: Sequence[str], title: str, last: bool) -> None:
    axis.set_title(title, fontsize=9)
    if panel.log:
        axis.set_yscale("log", nonpositive="mask")
    axis.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6)
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(alpha=0.25)


def _explain(axis: Any, panel: _Panel) -> None:
    """Which line is which."""
    lines = [(line, "black") for line in panel.lines]
    if panel.reference is not None:
        lines.append((panel.reference, _GREY))
    handles = [_handle(line.style, colour) for line, colour in lines]
    axis.legend(handles, [line.label for line, _ in lines], fontsize=7, loc="best", framealpha=0.6)


def _handle(style: str, colour: str) -> Any:
    from matplotlib.lines import Line2D

    marker = style[0] if style[0] in "o^s" else None
    dashes = style.lstrip("o^s") or "-"
    return Line2D([], [], color=colour, marker=marker, linestyle=dashes, markersize=4, linewidth=1)
