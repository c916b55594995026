"""What all comparisons share: which labels, Wilcoxon's test, Holm's correction within a family."""

import itertools
from typing import Any, Literal, get_args

import numpy as np

from fp4jax.analysis.stats.draws import check_resamples
from fp4jax.analysis.stats.effect import Mean
from fp4jax.analysis.stats.power import check_alpha, holm, smallest_p_holm
from fp4jax.analysis.stats.rounding_noise import rounded
from fp4jax.analysis.stats.rows import BASELINE, GROUP
from fp4jax.analysis.stats.verdicts import MARGIN, verdicts
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd
    from scipy import stats

Pairs = Literal["baseline", "all"]
Family = Literal["group", "all"]


def contrasts(labels: list[str], pairs: str) -> list[tuple[str, str]]:
    """The pairs of labels that are compared, of labels in their order."""
    every = itertools.combinations(labels, 2)
    return [(a, b) for a, b in every if pairs == "all" or a == BASELINE]


def signed_rank(d: np.ndarray, scale: float) -> dict[str, Any]:
    """Wilcoxon's test of differences, those that are equal but for rounding noise tied."""
    coarse = rounded(d, scale)
    if len(d) < 2:
        statistic = p = float("nan")
    else:
        statistic, p = stats.wilcoxon(coarse) if coarse.any() else (0.0, 1.0)
    return {"ties": int(np.sum(coarse == 0)), "statistic": statistic, "p": p}


def with_families(comparisons: pd.DataFrame, family: str, alpha: float) -> pd.DataFrame:
    """With Holm's corrections within families, what these can reach, and verdicts."""
    if comparisons.empty:
        return comparisons
    by = [comparisons[key] for key in GROUP]
    corrected = comparisons.groupby(
        np.zeros(len(comparisons)) if family == "all" else by, sort=False
    )
    for name in ("p", "p_folds", "p_equivalence"):
        if name in comparisons:
            comparisons[f"{name}_holm"] = corrected[name].transform(lambda p: holm(p.to_numpy()))
    comparisons["family_size"] = corrected["p"].transform("count").astype(int)
    comparisons["smallest_p_holm"] = corrected["n"].transform(
        lambda n: smallest_p_holm(tuple(map(int, n)))
    )
    comparisons["reachable"] = comparisons["smallest_p_holm"] < alpha
    means = zip(
        comparisons["difference"], comparisons["error"], comparisons["freedom"], strict=True
    )
    comparisons["detectable"] = [
        Mean(*mean).detectable(alpha / size if size else float("nan"))
        for mean, size in zip(means, comparisons["family_size"], strict=True)
    ]
    comparisons["verdict"] = verdicts(comparisons, alpha)
    return comparisons


def check_options(pairs: str, family: str, resamples: int, alpha: float, margin: float) -> None:
    """Raises a ValueError that names what is allowed."""
    for name, value, kind in (("pairs", pairs, Pairs), ("family", family, Family)):
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(get_args(kind))}.")
    check_resamples(resamples)
    check_alpha(alpha)
    if not margin > 0:
        raise ValueError(f"margin is {margin!r}; give a difference above 0, such as {MARGIN}.")


def check_baseline(rows: pd.DataFrame, pairs: str) -> None:
    """Raises a ValueError if others are to be compared with a baseline that is not there."""
    labels = list(rows["label"].unique())
    if pairs == "baseline" and BASELINE not in labels:
        raise ValueError(
            f"no run has the label {BASELINE!r} to be compared with; the labels are: "
            f"{', '.join(map(str, labels))}. Run the baseline too, or pass pairs='all'."
        )
