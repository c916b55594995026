"""Test AUPRC of each label: means over runs, intervals, and the runs."""

from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.rows import by_group, defined, where
from fp4jax.analysis.figures.sensitivity import spread
from fp4jax.analysis.figures.style import INK, look, ordered_labels
from fp4jax.analysis.stats import summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def multi_seed(table: "pd.DataFrame", metric: str = "test_auprc") -> "Figure | None":
    """Bars of means with 95 % t intervals and a dot per run, baseline first.

    Args:
        table: of :func:`fp4jax.analysis.results.table`.
        metric: one of its columns.

    Returns:
        None without a run in which the metric is defined.

    Example:
        >>> import pandas as pd
        >>> keys = {"arch": "cnn", "scale": "4m", "label": "baseline", "split": "holdout"}
        >>> values = {"seed": [1, 2], "test_auprc": [0.7, 0.8]}
        >>> figure = multi_seed(pd.DataFrame(keys | values))
        >>> len(figure.axes[0].patches)
        1
    """
    data = where(table, defined(table, metric))
    if data.empty:
        return None
    labels = ordered_labels(data["label"])
    means = summary(data, metric)
    rows = by_group(means)
    pairs = zip(data["arch"], data["scale"], strict=True)
    figure, axes = panels.grid(pairs, 2.7, share_y="row")
    for (arch, scale), axis in axes.items():
        for x, label in enumerate(labels):
            values = where(data, arch=arch, scale=scale, label=label)[metric].to_numpy()
            if not len(values):
                continue
            row = rows[arch, scale, label]
            axis.bar(x, row["mean"], 0.7, **look(label).bar())
            axis.plot(x + spread(len(values)), values, **look(label).dots(), ms=3.5)
            if np.isfinite(row["ci_low"]):
                error = [[row["mean"] - row["ci_low"]], [row["ci_high"] - row["mean"]]]
                axis.errorbar(x, row["mean"], error, color=INK, linewidth=1.1, capsize=3, zorder=4)
        panels.label_ticks(axis, labels)
        axis.set_xlim(-0.6, len(labels) - 0.4)
    place = panels.places(axes)[2]
    for i in {row for row, _ in place.values()}:
        _limit(
            [(group, axes[group]) for group in axes if place[group][0] == i], data, means, metric
        )
    figure.supylabel("test AUPRC" if metric == "test_auprc" else metric, fontsize=9)
    return figure


def _limit(row: list, data: "pd.DataFrame", means: "pd.DataFrame", metric: str) -> None:
    """Of panels that share y. Bars may begin above 0: it is their differences that count."""
    values, ends = [], []
    for (arch, scale), _ in row:
        values.append(where(data, arch=arch, scale=scale)[metric].to_numpy())
        ends.append(where(means, arch=arch, scale=scale)[["ci_low", "ci_high"]].to_numpy().ravel())
    low, high = panels.limits(np.concatenate(values), np.concatenate(ends), 0.05)
    row[0][1].set_ylim(max(0, low - 0.3 * (high - low)), min(1, high))
