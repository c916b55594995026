"""Each label by itself: mean, spread and t interval; per cent of the paired baseline."""

from fp4jax.analysis.stats.effect import Mean
from fp4jax.analysis.stats.rows import BASELINE, GROUP, PAIR, defined_rows, groups, unit, units
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd


def summary(table: pd.DataFrame, metric: str = "test_auprc") -> pd.DataFrame:
    """Mean, standard deviation and 95 % t interval of each label over independent units.

    Units are seeds or, of several splits, splits with the means over their seeds
    (:func:`fp4jax.analysis.stats.rows.unit`). The interval is mean -+ t_{0.975, n - 1} sd /
    sqrt(n), sd with n - 1 in the denominator. It speaks of further seeds (or folds) on the same
    data, not of further patients; for these see :func:`fp4jax.analysis.stats.patient_bootstrap`.

    Args:
        table: of runs, as :func:`fp4jax.analysis.results.table` makes it; rows where the metric is
            NaN are left out.
        metric: a column.

    Returns:
        A row per arch, scale and label, with n (units), unit ("seed", "fold" or "split"), mean, sd,
        min, max, ci_low and ci_high; sd and interval are NaN if n is 1.

    Raises:
        ValueError: if a column is missing, a run occurs twice, or the metric is nowhere defined.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame({"arch": "swin", "scale": "4m", "label": "full", "split": "holdout",
        ...     "seed": [0, 1, 2], "test_auprc": [0.7, 0.8, 0.9]})
        >>> print(summary(runs)[["label", "n", "mean", "sd", "ci_low"]].round(3).to_string())
          label  n  mean   sd  ci_low
        0  full  3   0.8  0.1   0.552
    """
    rows = defined_rows(table, metric)
    found = []
    for names, wide in groups(rows):
        kind = unit(wide)
        for label in wide:
            values = units(wide[label].dropna(), kind).to_numpy()
            low, high = (mean := Mean.of(values)).interval()
            found.append(
                names
                | {"label": label, "n": len(values), "unit": kind, "mean": mean.value}
                | {"sd": mean.error * len(values) ** 0.5}
                | {"min": values.min(), "max": values.max(), "ci_low": low, "ci_high": high}
            )
    return pd.DataFrame(found)


def relative(table: pd.DataFrame, metric: str = "test_auprc") -> pd.DataFrame:
    """Each run's metric in per cent of the baseline of the same arch, scale, split and seed.

    percent = 100 value / baseline. Rows without such a baseline, or whose baseline is 0, are
    dropped: they have nothing to be a share of.

    Returns:
        Columns arch, scale, label, split, seed, value and percent; the baseline itself has 100.

    Raises:
        ValueError: as :func:`summary`, or if no row has a baseline.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame({"arch": "swin", "scale": "4m", "label": ["baseline", "full"],
        ...     "split": "holdout", "seed": 0, "test_auprc": [0.8, 0.6]})
        >>> print(relative(runs)[["label", "value", "percent"]].to_string(index=False))
           label  value  percent
        baseline    0.8    100.0
            full    0.6     75.0
    """
    rows = defined_rows(table, metric)
    keys = [*GROUP, *PAIR]
    reference = rows.loc[(rows["label"] == BASELINE) & (rows["value"] != 0), [*keys, "value"]]
    joined = rows.merge(reference.rename(columns={"value": "reference"}), on=keys)
    if joined.empty:
        labels = ", ".join(map(str, rows["label"].unique()))
        raise ValueError(
            f"no run has a {BASELINE!r} of the same arch, scale, split and seed to be compared "
            f"with; the labels are: {labels}. Run the baseline too."
        )
    joined["percent"] = 100 * joined["value"] / joined["reference"]
    return joined.drop(columns="reference")
