"""Cross-validation: test AUPRC of each label with a dot per fold."""

from typing import TYPE_CHECKING

import numpy as np

from fp4jax.analysis.figures import panels
from fp4jax.analysis.figures.rows import GROUP, defined, where
from fp4jax.analysis.figures.sensitivity import spread
from fp4jax.analysis.figures.style import INK, look, ordered_archs, ordered_labels, title

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def cross_validation(table: "pd.DataFrame", metric: str = "test_auprc") -> "Figure | None":
    """Grouped bars per architecture: mean over folds, standard deviation, a dot per fold.

    Several seeds of a fold are averaged first: a fold is one set of test patients. A panel per
    scale.

    Args:
        table: of :func:`fp4jax.analysis.results.table`.
        metric: one of its columns.

    Returns:
        None without runs of at least two folds.

    Example:
        >>> import pandas as pd
        >>> keys = {"arch": "cnn", "scale": "4m", "label": "baseline", "seed": 1}
        >>> values = {"split": ["fold0", "fold1"], "test_auprc": [0.7, 0.8]}
        >>> figure = cross_validation(pd.DataFrame(keys | values))
        >>> len(figure.axes[0].patches)
        1
    """
    is_fold = np.array([split.startswith("fold") for split in table["split"]])
    data = where(table, defined(table, metric) & is_fold)
    if len(set(data["split"])) < 2:
        return None
    folds = data.groupby([*GROUP, "split"], as_index=False).agg({metric: "mean"})
    labels = ordered_labels(folds["label"])
    archs = ordered_archs(folds["arch"])
    scales = panels.ordered_scales(folds["scale"])
    per_panel = 0.9 + 0.42 * len(archs) * (len(labels) + 0.8)
    width = float(np.clip(per_panel * len(scales), 4.5, panels.WIDTH))
    figure = panels.new_figure(width, 3.8)
    axes = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
    step = 0.8 / len(labels)
    for axis, scale in zip(axes, scales, strict=True):
        for i, arch in enumerate(archs):
            for j, label in enumerate(labels):
                values = where(folds, arch=arch, scale=scale, label=label)[metric].to_numpy()
                if len(values):
                    _bar(axis, i + (j - (len(labels) - 1) / 2) * step, values, step, label)
        axis.set_xticks(range(len(archs)), [title(arch) for arch in archs])
        axis.set_xlim(-0.55, len(archs) - 0.45)
        axis.set_title(scale.upper(), fontsize=10)
        panels.tidy(axis)
    values = folds[metric].to_numpy()
    room = max(values.max() - values.min(), 0.05)
    axes[0].set_ylim(max(0, values.min() - 0.35 * room), min(1, values.max() + 0.15 * room))
    axes[0].set_ylabel("test AUPRC" if metric == "test_auprc" else metric, fontsize=9)
    panels.legend_below(figure, labels, lines=False)
    return figure


def _bar(axis, x: float, values: np.ndarray, step: float, label: str) -> None:
    width, own = 0.86 * step, look(label)
    axis.bar(x, values.mean(), width, **own.bar())
    axis.plot(x + spread(len(values), 0.5 * width), values, **own.dots(), ms=4)
    if len(values) > 1:
        sd = values.std(ddof=1)
        axis.errorbar(x, values.mean(), sd, color=INK, linewidth=1.2, capsize=3, zorder=4)
