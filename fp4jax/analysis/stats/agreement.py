"""Kendall's coefficient of concordance: does every seed or fold rank the labels alike?"""

from fp4jax.analysis.stats.rounding_noise import rounded
from fp4jax.analysis.stats.rows import defined_rows, groups, unit, units
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

_NAN = float("nan")


def kendall(
    table: pd.DataFrame, metric: str = "test_auprc", lower_is_better: bool = False
) -> pd.DataFrame:
    """Kendall's W [1] of the ranks of the k labels in n blocks, for each arch and scale.

    A block is a seed or, of several splits, a split with the means over its seeds; within it rank 1
    is best, and values that are equal up to rounding (1e-6 of the largest) share their mean rank.
    With R_j the sum of the ranks of label j,

        W = 12 sum_j (R_j - n (k + 1) / 2)^2 / (n^2 (k^3 - k)),

    without correction for ties: 1 if all blocks agree, about 1 / n if they rank at random. Blocks
    in which a label is missing are left out. The verdict is the reference's: "strong" above 0.7,
    "moderate" above 0.5, else "weak"; "undefined" (W is NaN) with fewer than two blocks or labels.

    Args:
        table: of runs, as :func:`fp4jax.analysis.results.table` makes it; rows where the metric is
            NaN are left out.
        metric: a column.
        lower_is_better: rank 1 is the lowest value, for losses and errors; W is the same.

    Returns:
        A row per arch and scale: n and left_out (blocks), unit (what a block is), labels (k), w,
        verdict, and mean_ranks and sd_ranks, a dict from label to mean and standard deviation
        (n - 1) of its rank.

    Raises:
        ValueError: if a column is missing, a run occurs twice, or the metric is nowhere defined.

    [1] M. G. Kendall, B. Babington Smith, The problem of m rankings, Ann. Math. Statist. 10
    (1939) 275.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame({"arch": "swin", "scale": "4m", "split": "holdout",
        ...     "label": ["baseline", "full"] * 2, "seed": [0, 0, 1, 1],
        ...     "test_auprc": [0.8, 0.7, 0.9, 0.6]})
        >>> found = kendall(runs).iloc[0]
        >>> print(found["w"], found["verdict"], found["mean_ranks"])
        1.0 strong {'baseline': 1.0, 'full': 2.0}
    """
    found = []
    for names, wide in groups(defined_rows(table, metric)):
        kind = unit(wide)
        blocks = units(wide.dropna(), kind)
        n, k = blocks.shape
        ranks = rounded(blocks).rank(axis=1, ascending=lower_is_better)
        w = _NAN
        if n > 1 and k > 1:
            spread = ((ranks.sum() - n * (k + 1) / 2) ** 2).sum()
            w = float(12 * spread / (n**2 * (k**3 - k)))
        found.append(
            names
            | {"n": n, "unit": kind, "left_out": len(units(wide, kind)) - n, "labels": k}
            | {"w": w, "verdict": _verdict(w)}
            | {"mean_ranks": ranks.mean().to_dict(), "sd_ranks": ranks.std(ddof=1).to_dict()}
        )
    return pd.DataFrame(found)


def _verdict(w: float) -> str:
    if w != w:
        return "undefined"
    return "strong" if w > 0.7 else "moderate" if w > 0.5 else "weak"
