"""Pictures of the benchmarks' tables; matplotlib is needed only here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def bars(path: Path, tables: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Milliseconds of each row, a panel for each table of ``timing.rows``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 1.4 * len(tables)), layout="constrained")
    axes = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axis, (title, rows) in zip(axes, tables.items(), strict=True):
        timed = [row for row in reversed(rows) if row.get("median_ms") is not None]
        axis.barh([row["name"] for row in timed], [row["median_ms"] for row in timed])
        axis.set_title(title, fontsize="small", loc="left")
        axis.tick_params(labelsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("ms")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def speed_by_rows(path: Path, tables: Sequence[tuple[str, int, Sequence[dict[str, Any]]]]) -> None:
    """Speed over bfloat16 by rows of the left operand, a panel for each layer.

    ``tables`` holds (layer, rows of the left operand, rows of the table).
    """
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(layer for layer, _, _ in tables))
    figure = Figure(figsize=(1 + 3 * len(layers), 3.2), layout="constrained")
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    names = dict.fromkeys(row["name"] for *_, rows in tables for row in rows)
    for axis, layer in zip(axes, layers, strict=True):
        for i, name in enumerate(names):
            points = sorted(
                (m, row["x bfloat16"])
                for other, m, rows in tables
                for row in rows
                if other == layer and row["name"] == name
            )
            if points:
                axis.plot(*zip(*points, strict=True), "o-", markersize=3, color=f"C{i}", label=name)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("rows")
        axis.set_title(layer, fontsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("speed over bfloat16")
    axes[0].legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def growths(path: Path, found: Sequence[Any]) -> None:
    """Seconds by size on log axes with their powers: rows are networks, columns axes.

    ``found`` are ``scaling_tables.Growth``.
    """
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(growth.network for growth in found))
    columns = list(dict.fromkeys(growth.axis for growth in found))
    figure = Figure(figsize=(3.2 * len(columns), 2.4 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for growth in found:
        axis = axes[networks.index(growth.network)][columns.index(growth.axis)]
        axis.set_axis_on()
        for who, seconds in growth.seconds.items():
            label = f"{who}: {growth.powers[who].exponent:.2f}"
            axis.loglog(growth.sizes, seconds, "o-", markersize=3, label=label)
        axis.set_title(growth.network, fontsize="small", loc="left")
        axis.set_xlabel(growth.axis, fontsize="small")
        axis.set_ylabel("s", fontsize="small")
        axis.set_xticks(growth.sizes, [f"{size:,}" for size in growth.sizes])
        axis.minorticks_off()
        axis.tick_params(labelsize="x-small")
        axis.legend(fontsize="x-small", title="power", title_fontsize="x-small")
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
