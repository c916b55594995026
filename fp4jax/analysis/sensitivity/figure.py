"""The picture of a sensitivity table: layers along x, what each costs, what each computes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fp4jax.analysis.figures.style import DPI, FAINT, INK
from fp4jax.extras import Extra
from fp4jax.files import replacing
from fp4jax.nnx import SensitivityRow, SensitivityTable
from fp4jax.nnx.sensitivities.table import ALL, exactly
from fp4jax.ops.recipe import ROLES

_QUANTIZED, _KEPT = "#56B4E9", "#D55E00"
# Of the operands: x, w, g by colour, the product by marker.
_COLOURS = {"x": "#0072B2", "w": "#009E73", "g": "#CC79A7"}
_MARKERS = {"fprop": "o", "dgrad": "s", "wgrad": "^"}


class _Panel(NamedTuple):
    title: str
    measure: str
    log: bool
    # with operands of the backward pass
    backward: bool = False


_PANELS = (
    _Panel("KL of the probabilities, nats", "kl", log=True),
    _Panel("change of the loss", "loss", log=False),
    _Panel("fall of the AUPRC", "score", log=False),
    _Panel("relative error of the gradient", "gradient", log=True, backward=True),
)


def draw(table: SensitivityTable, path: Path, title: str = "", keep: Sequence[str] = ()) -> None:
    """Writes a PNG of a table: bars for layers, markers for their operands.

    Args:
        table: of :func:`fp4jax.nnx.sensitivity`.
        path: of the PNG; an existing file is replaced.
        title: is written above.
        keep: patterns of layers in another colour, those to be kept in high precision.
    """
    with Extra("study"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    names = [row.layer for row in table.layers]
    colours = [_KEPT if exactly(name) in keep else _QUANTIZED for name in names]
    panels = [p for p in _PANELS if getattr(table.together, p.measure) is not None]
    size = (min(max(7.0, 0.24 * len(names) + 2), 14.0), 1.9 * (len(panels) + 1) + 2.0)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(panels) + 1, 1, squeeze=False, sharex=True)[:, 0]
    for panel, axis in zip(panels, axes, strict=False):
        _costs(axis, table, panel, names, colours)
    total = max(table.multiply_adds, 1)
    axes[-1].bar(
        range(len(names)), [100 * r.multiply_adds / total for r in table.layers], color=colours
    )
    axes[-1].set_title("multiply-adds, % of the model's", fontsize=9)
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    for axis in axes:
        axis.tick_params(axis="y", labelsize=7)
        axis.grid(axis="y", alpha=0.25)
        axis.set_xlim(-0.6, len(names) - 0.4)
    _legend(figure, table, bool(keep))
    figure.suptitle(title, fontsize=9, wrap=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _costs(
    axis: Any, table: SensitivityTable, panel: _Panel, names: list[str], colours: list[str]
) -> None:
    """Bars of the layers, markers of the operands, a line for all layers together."""
    if panel.log:
        axis.set_yscale("log", nonpositive="clip")
        shown = [_height(row, panel) for row in (*table.rows, table.together)]
        shown = [value for value in shown if value > 0] or [1.0]
        axis.set_ylim(min(shown) / 2, max(shown) * 2)
    heights = [_height(row, panel) for row in table.layers]
    axis.bar(range(len(names)), heights, color=colours)
    for row in table.rows:
        of_backward = "fprop." not in row.operand
        if row.operand == ALL or (of_backward and not panel.backward):
            continue
        # Of an attention's two products likewise: q and P in the role of x.
        product, tensor = row.operand.split(".")[-2:]
        axis.plot(
            names.index(row.layer),
            _height(row, panel),
            _MARKERS[product],
            color=_COLOURS[tensor],
            markersize=3.5,
            markeredgewidth=0,
        )
    axis.axhline(_height(table.together, panel), color=INK, linestyle="--", linewidth=0.9)
    if not panel.log:
        axis.axhline(0, color=FAINT, linewidth=0.7)
    axis.set_title(panel.title, fontsize=9)


def _height(row: SensitivityRow, panel: _Panel) -> float:
    value = float(getattr(row, panel.measure))
    return math.nan if panel.log and value <= 0 else value


def _legend(figure: Any, table: SensitivityTable, kept: bool) -> None:
    with Extra("study"):
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

    measured = {".".join(row.operand.split(".")[-2:]) for row in table.rows}
    handles: list[Any] = [Patch(color=_QUANTIZED, label="layer alone")]
    if kept:
        handles.append(Patch(color=_KEPT, label="layer alone, proposed to be kept"))
    handles += [
        Line2D([], [], linestyle="none", marker=_MARKERS[p], color=_COLOURS[t], label=f"{p}.{t}")
        for p, t in (role.split(".") for role in ROLES if role in measured)
    ]
    handles.append(Line2D([], [], color=INK, linestyle="--", label="all layers together"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
