"""What a comparison may be said to have found, in words that its tests bear out."""

from collections.abc import Hashable, Mapping
from typing import Any

from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

#: Half the width of the interval in which a difference is none, in units of the metric.
MARGIN = 0.02


def verdicts(comparisons: pd.DataFrame, alpha: float) -> list[str]:
    """A verdict for each row of a comparison, from its p-values after Holm's correction.

    ========================== ====================================================================
    "not tested"               fewer than two pairs
    "differs"                  the test finds a difference; of patients, also the one that allows
                               for folds
    "differs here"             of patients: the trained networks differ on these patients, but
                               folds differ so much among each other, or there is but one, that
                               nothing is shown of networks trained on other patients
    "equivalent"               the difference lies within the margin
    "differs, within margin"   both: there is a difference, and it lies within the margin
    "not shown"                neither, though enough pairs of one sign could have reached ``alpha``
    "out of reach"             neither, and no differences whatever could have reached it
    ========================== ====================================================================
    """
    return [_verdict(row, alpha) for row in comparisons.to_dict(orient="records")]


def _verdict(row: Mapping[Hashable, Any], alpha: float) -> str:
    if row["p_holm"] != row["p_holm"]:
        return "not tested"
    equivalent = row["p_equivalence_holm"] < alpha
    if row["p_holm"] < alpha:
        # NaN, of one fold or where all patients lose alike, shows nothing.
        if "p_folds_holm" in row and not row["p_folds_holm"] < alpha:
            return "equivalent" if equivalent else "differs here"
        return "differs, within margin" if equivalent else "differs"
    if equivalent:
        return "equivalent"
    return "not shown" if row["reachable"] else "out of reach"
