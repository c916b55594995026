"""What a design can show at best: the smallest p of n pairs, and how many pairs are needed."""

import contextlib
import functools
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np

from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd
    from scipy import stats
    from statsmodels.stats.multitest import multipletests


@functools.cache
def smallest_p(n: int) -> float:
    """The two-sided p of Wilcoxon's test if all n differences have the same sign.

    Each of the 2**n signs is equally likely under the null hypothesis, so it is 2 / 2**n; SciPy
    turns to the normal approximation beyond n = 50. NaN below two pairs, which are not tested.

    Example:
        >>> smallest_p(5), smallest_p(10)
        (0.0625, 0.001953125)
    """
    if n < 2:
        return float("nan")
    found: Any = stats.wilcoxon(np.arange(1.0, n + 1))
    return float(found.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of the p that are defined; NaN stays and is not counted.

    p_holm_(i) = min(1, max_{j <= i} (m - j + 1) p_(j)) for p_(1) <= ... <= p_(m) [1]. It controls
    the chance of any false rejection in the family, whatever the dependence.

    [1] S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6
    (1979) 65.

    Example:
        >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
        [0.03, 0.06, nan, 0.06]
    """
    corrected, tested = np.full(len(p), np.nan), ~np.isnan(p)
    if tested.any():
        with _little_garbage():
            corrected[tested] = multipletests(p[tested], method="holm")[1]
    return corrected


@contextlib.contextmanager
def _little_garbage() -> Iterator[None]:
    """statsmodels collects garbage at every correction, a tenth of a second beside a loaded JAX.

    Frozen objects are not looked at.
    """
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


@functools.cache
def smallest_p_holm(pairs: tuple[int, ...]) -> np.ndarray:
    """What no corrected p of a family can fall below, from the number of pairs of each comparison.

    Holm's corrected p do not fall if any p rises, so it is :func:`holm` of the smallest p.

    Example:
        >>> smallest_p_holm((6, 8)).tolist()
        [0.03125, 0.015625]
    """
    return holm(np.array([smallest_p(n) for n in pairs]))


def pairs_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The smallest n with which the exact test can reach p < alpha after Holm's correction.

    The smallest of m p-values is multiplied by m, so it takes m 2 / 2**n < alpha.

    Raises:
        ValueError: if ``comparisons`` is below 1 or ``alpha`` not between 0 and 1.

    Example:
        >>> pairs_needed(28), pairs_needed(7), pairs_needed(1)
        (11, 9, 6)
    """
    check_alpha(alpha)
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons!r}; give at least 1.")
    n = 2
    while comparisons * 2.0 ** (1 - n) >= alpha:
        n += 1
    return n


def power_note(comparison: pd.DataFrame, alpha: float = 0.05) -> str:
    """Says in words whether the design of a comparison can reach significance at all.

    Args:
        comparison: what :func:`fp4jax.analysis.stats.compare` or
            :func:`fp4jax.analysis.stats.compare_patients` returned.
        alpha: level of the corrected p.

    Returns:
        A sentence for each number of pairs and of comparisons corrected for.

    Raises:
        ValueError: if ``alpha`` is not between 0 and 1.

    Example:
        >>> import textwrap, pandas as pd
        >>> note = power_note(pd.DataFrame({"n": [10] * 28, "family_size": 28,
        ...     "smallest_p_holm": 28 * 2 / 2**10}))
        >>> print(textwrap.fill(note, 80))
        No comparison can reach p < 0.05: with 10 pairs Wilcoxon's test gives at least
        0.00195, and Holm's correction for 28 comparisons makes that at least 0.0547. It
        takes 11 pairs.
    """
    check_alpha(alpha)
    if comparison.empty:
        return "There is nothing to compare."
    tested = comparison[comparison["smallest_p_holm"].notna()]
    notes = []
    unit = comparison["unit"] if "unit" in comparison else pd.Series("pair", comparison.index)
    designs = tested.assign(unit=unit).groupby(
        ["n", "unit", "family_size", "smallest_p_holm"], sort=True
    )
    for (n, unit, m, bound), rows in designs:  # pyright: ignore[reportGeneralTypeIssues]
        reachable = bound < alpha
        if len(rows) == len(comparison):
            which = "Every comparison can" if reachable else "No comparison can"
        else:
            can = "can" if reachable else "cannot"
            which = f"{len(rows)} of {_comparisons(len(comparison))} {can}"
        notes.append(
            f"{which} reach p < {alpha:g}: with {n} pairs{_of(unit)} Wilcoxon's test gives at "
            f"least {smallest_p(int(n)):.3g}, and Holm's correction for {_comparisons(int(m))} "
            f"makes that at least {bound:.3g}. It takes {pairs_needed(int(m), alpha)} pairs."
        )
    untested = len(comparison) - len(tested)
    if untested:
        has = "has" if untested == 1 else "have"
        notes.append(f"{_comparisons(untested)} {has} fewer than two pairs and no test.")
    return " ".join(notes)


def check_alpha(alpha: float) -> None:
    """Raises a ValueError unless ``alpha`` is a level."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; give a level between 0 and 1, such as 0.05.")


def _of(unit: str) -> str:
    return "" if unit == "pair" else f" (a pair is a {unit})"


def _comparisons(number: int) -> str:
    return f"{number} comparison{'' if number == 1 else 's'}"
