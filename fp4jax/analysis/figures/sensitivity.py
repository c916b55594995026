"""Recipe sensitivity: test AUPRC as per cent of the same seed's baseline."""

from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.rows import by_group, defined, where
from fp4jax.analysis.figures.style import BASELINE, FAINT, INK, is_advanced, look, ordered_labels
from fp4jax.analysis.stats import summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Always within the axis, so that tiny differences look tiny.
_SHOWN = (90.0, 105.0)


def recipe_sensitivity(relative: "pd.DataFrame") -> "Figure | None":
    """A dot per run, its mean and 95 % t interval, for each label but the baseline.

    Labels are in the paper's order, 2, 7, 3, 6, 5, 4, 1; those that round stochastically or have
    two-dimensional weight blocks are shaded.

    Args:
        relative: of :func:`fp4jax.analysis.stats.relative`.

    Returns:
        None if there is nothing but the baseline.

    Example:
        >>> import pandas as pd
        >>> keys = {"arch": "cnn", "scale": "4m", "split": "holdout", "seed": [1, 2]}
        >>> values = {"label": "full", "value": [0.7, 0.6], "percent": [97.0, 98.0]}
        >>> figure = recipe_sensitivity(pd.DataFrame(keys | values))
        >>> figure.axes[0].get_title()
        'CNN 4M'
    """
    data = where(relative, defined(relative, "percent") & (relative["label"] != BASELINE))
    if data.empty:
        return None
    labels = ordered_labels(data["label"])
    means = summary(data, "percent")
    rows = by_group(means)
    pairs = zip(data["arch"], data["scale"], strict=True)
    figure, axes = panels.grid(pairs, 2.7)
    for (arch, scale), axis in axes.items():
        for x, label in enumerate(labels):
            if is_advanced(label):
                axis.axvspan(x - 0.5, x + 0.5, color=FAINT, alpha=0.13, linewidth=0)
            values = where(data, arch=arch, scale=scale, label=label)["percent"].to_numpy()
            if not len(values):
                continue
            axis.plot(x + spread(len(values)), values, **look(label).dots(), ms=5, alpha=0.75)
            row = rows[arch, scale, label]
            mean_with_interval(axis, x, row["mean"], row["ci_low"], row["ci_high"])
        axis.axhline(100, color=INK, linestyle="--", linewidth=0.9)
        panels.label_ticks(axis, labels)
        axis.set_xlim(-0.6, len(labels) - 0.4)
    values = np.append(data["percent"].to_numpy(), _SHOWN)
    ends = means[["ci_low", "ci_high"]].to_numpy().ravel()
    next(iter(axes.values())).set_ylim(panels.limits(values, ends, 1.0))
    figure.supylabel("test AUPRC, % of the same seed's baseline", fontsize=9)
    return figure


def spread(count: int, width: float = 0.4) -> np.ndarray:
    """Places of dots beside each other about 0, in the order of the runs."""
    return np.linspace(-width / 2, width / 2, count) if count > 1 else np.zeros(1)


def mean_with_interval(axis, x: float | int, mean: float, low: float, high: float) -> None:
    """A short bar at the mean, and the interval where there is one."""
    axis.plot([x - 0.26, x + 0.26], [mean, mean], color=INK, linewidth=2, zorder=4)
    if np.isfinite(low) and np.isfinite(high):
        error = [[mean - low], [high - mean]]
        axis.errorbar(x, mean, error, color=INK, linewidth=1.1, capsize=3, zorder=4)
