"""Paired comparisons: Wilcoxon's test with Holm's correction, effect sizes, equivalence."""

from typing import Any

import numpy as np

from fp4jax.analysis.stats.effect import Mean, cohens_d_z
from fp4jax.analysis.stats.family import (
    check_baseline,
    check_options,
    contrasts,
    signed_rank,
    with_families,
)
from fp4jax.analysis.stats.rounding_noise import magnitude, steady
from fp4jax.analysis.stats.rows import GROUP, defined_rows, groups, unit, units
from fp4jax.analysis.stats.verdicts import MARGIN
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd
    from scipy import stats

_COLUMNS = [*GROUP, "a", "b", "n", "unit", "ties", "mean_a", "mean_b"]
_COLUMNS += ["difference", "error", "freedom", "ci_low", "ci_high", "boot_low", "boot_high"]
_COLUMNS += ["d_z", "d_z_low", "d_z_high", "statistic", "p", "p_holm", "family_size"]
_COLUMNS += ["smallest_p_holm", "reachable", "detectable"]
_COLUMNS += ["margin", "p_equivalence", "p_equivalence_holm", "verdict"]


def compare(
    table: pd.DataFrame,
    metric: str = "test_auprc",
    pairs: str = "baseline",
    family: str = "group",
    resamples: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
    margin: float = MARGIN,
) -> pd.DataFrame:
    """Compares labels of the same arch and scale by their differences in independent units.

    A unit is a seed if all runs have one split; with several splits (folds) it is the split, and
    a_i and b_i are the means over its seeds in which both labels have a run, since seeds of one
    fold are not independent (:func:`fp4jax.analysis.stats.rows.unit`). With d_i = a_i - b_i over
    the n units:

    - ``difference`` is the mean of d: **positive if a is larger**. Of two labels a is the one that
      comes first (the baseline, the recipes by the paper's ids, further ones, PTQ, QAD), so that
      against the baseline a is always the baseline, and ``difference`` is what b loses.
    - ``error`` = sd(d) / sqrt(n), its standard error, with ``freedom`` = n - 1.
    - ``ci_low``, ``ci_high``: its 95 % interval, difference -+ t_{0.975, freedom} error.
    - ``boot_low``, ``boot_high``: 95 % percentile bootstrap interval [1], which supposes no normal
      distribution. The spread of resamples is sqrt(1 - 1 / n) of what it should be, so few units
      give intervals that are too narrow: of normal d they covered the truth in 84 % of simulated
      studies with n = 5, in 90 % with n = 10 and in 95 % with n = 40.
    - ``d_z`` = mean(d) / sd(d), Cohen's effect size of paired data, sd with n - 1, and its interval
      (:func:`fp4jax.analysis.stats.effect.cohens_d_z`).
    - ``statistic``, ``p``: Wilcoxon's signed-rank test [2], two-sided, as
      :func:`scipy.stats.wilcoxon` has it: exact up to n = 50 without ties; units with d = 0 are
      left out, ``ties`` is their number. Differences are taken as multiples of 1e-6 of the largest
      value compared, so that rounding noise is no difference.
    - ``p_holm``: p by Holm's step-down correction [3] for the ``family_size`` comparisons of the
      family that are tested at all.
    - ``smallest_p_holm``: what no p_holm of this design can fall below, Holm's correction of the
      p-values that n differences of one sign give; ``reachable`` says that it is below ``alpha``.
      (Holm's corrected p rise with each p, so this bound is sharp.) Five folds give 0.0625.
    - ``detectable``: the true difference that Student's test would find in 80 % of such studies, at
      ``alpha`` divided by the family's size, if the spread is what was seen
      (:meth:`fp4jax.analysis.stats.effect.Mean.detectable`).
    - ``p_equivalence``: of two one-sided t tests that the true difference is not within ``margin``
      (:meth:`fp4jax.analysis.stats.effect.Mean.p_equivalence`), and ``p_equivalence_holm``.
    - ``verdict``: see :func:`fp4jax.analysis.stats.verdicts.verdicts`.

    Folds share training data, so that even their means are not quite independent, and the t
    interval of a cross-validation is somewhat too narrow [4].

    If all d are 0, p = 1 and statistic = 0. If n < 2 nothing is tested: intervals, d_z, statistic
    and all p are NaN, and the comparison does not count in its family. If d does not vary, d_z and
    p_equivalence are NaN.

    Args:
        table: of runs, as :func:`fp4jax.analysis.results.table` makes it; rows where the metric is
            NaN are left out.
        metric: a column.
        pairs: "baseline" compares each label with the baseline, which is what a study should
            register in advance; "all" compares all labels with each other, as the paper does. A
            group without a baseline, or with a single label, has no comparisons.
        family: "group" corrects within each (arch, scale), as the paper's script does; "all" over
            all groups together, as its runner does.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        alpha: level of ``reachable`` and ``verdict``.
        margin: of equivalence, in units of the metric.

    Returns:
        A row per comparison, none if there is nothing to compare. Columns: arch, scale, a, b, n,
        unit ("seed", "fold" or "split"), mean_a and mean_b (over the units), and those above.

    Raises:
        ValueError: if a column is missing, a run occurs twice, the metric is nowhere defined, no
            group has a baseline though ``pairs`` is "baseline", or an option is not allowed.

    [1] B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.
    [2] F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bull. 1 (1945) 80.
    [3] S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6
    (1979) 65.
    [4] C. Nadeau, Y. Bengio, Inference for the generalization error, Mach. Learn. 52 (2003) 239.

    Example:
        >>> import pandas as pd
        >>> runs = pd.DataFrame({"arch": "swin", "scale": "4m", "split": "holdout",
        ...     "label": ["baseline"] * 6 + ["full"] * 6, "seed": [*range(6)] * 2,
        ...     "test_auprc": [0.80, 0.81, 0.82, 0.83, 0.84, 0.85,
        ...                    0.75, 0.77, 0.79, 0.76, 0.83, 0.79]})
        >>> found = compare(runs)
        >>> print(found[["a", "b", "n", "difference", "p", "reachable"]].round(4).to_string())
                  a     b  n  difference       p  reachable
        0  baseline  full  6      0.0433  0.0312       True
    """
    check_options(pairs, family, resamples, alpha, margin)
    rows = defined_rows(table, metric)
    check_baseline(rows, pairs)
    found = []
    for names, wide in groups(rows):
        kind = unit(wide)
        for a, b in contrasts(list(wide.columns), pairs):
            both = units(wide[[a, b]].dropna(), kind).to_numpy()
            test = _test(both, resamples, seed, margin)
            found.append(names | {"a": a, "b": b, "unit": kind} | test)
    return with_families(pd.DataFrame(found, columns=_COLUMNS), family, alpha)


def _test(both: np.ndarray, resamples: int, seed: int, margin: float) -> dict[str, Any]:
    """Of (n, 2) values."""
    scale = magnitude([both])
    d = steady(both[:, 0] - both[:, 1], scale)
    n, nan = len(d), float("nan")
    mean = Mean.of(d)
    mean_a, mean_b = both.mean(0) if n else (nan, nan)
    found = {"n": n, "mean_a": mean_a, "mean_b": mean_b, **mean.columns()}
    for name, values in (
        ("ci", mean.interval()),
        ("boot", _interval(d, resamples, seed) if n > 1 else (nan, nan)),
    ):
        found |= {f"{name}_low": values[0], f"{name}_high": values[1]}
    found |= dict(zip(("d_z", "d_z_low", "d_z_high"), cohens_d_z(mean), strict=True))
    found |= {"margin": margin, "p_equivalence": mean.p_equivalence(margin)}
    return found | signed_rank(d, scale)


def _interval(d: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    found = stats.bootstrap(
        (d,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
    )
    return found.confidence_interval
