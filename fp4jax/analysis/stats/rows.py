"""The rows that statistics are of: checked, without undefined values, in groups and pairs."""

from collections.abc import Iterator
from typing import Any

from fp4jax.extras import Extra
from fp4jax.ops.recipe import recipes

with Extra("study"):
    import pandas as pd

#: The label that others are compared with.
BASELINE = "baseline"
#: What is compared with each other: the labels of a group.
GROUP = ["arch", "scale"]
#: Runs of two labels that agree in these are a pair.
PAIR = ["split", "seed"]

_METHODS = ("ptq", "qad")


def defined_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Columns arch, scale, label, split, seed and ``value``, without rows where the metric is NaN.

    Raises:
        ValueError: if a column is missing, no row is left, or a run occurs twice.
    """
    keys = [*GROUP, "label", *PAIR]
    missing = [column for column in [*keys, metric] if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(str, table.columns))}. Pass fp4jax.analysis.results.table(runs) and "
            "one of its metrics."
        )
    # What pandas' own annotations make of a selection is no help.
    rows: Any = table[[*keys, metric]].set_axis([*keys, "value"], axis=1)
    rows = rows[rows["value"].notna()].astype({"value": float}).reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"{metric!r} is not defined in any row; give a table of finished runs.")
    twice = rows[rows.duplicated(subset=keys)]
    if len(twice):
        first = ", ".join(f"{key} {twice.iloc[0][key]}" for key in keys)
        raise ValueError(
            f"{len(twice)} runs occur twice, the first: {first}. Runs are paired on (split, seed), "
            "so a label may have each once; keep runs of one configuration, or tell them apart by "
            "their label."
        )
    return rows


def groups(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each (arch, scale), in the order of the rows, as a dict and its values.

    The values have a row per (split, seed) and a column per label, in the order of
    :func:`ordered`; NaN where there is no run.
    """
    for names, group in by_group(rows):
        wide: Any = group.pivot(index=PAIR, columns="label", values="value")
        yield names, wide[ordered(list(wide.columns))]


def is_nested(values: Any) -> bool:
    """Whether values by (split, seed) are of several splits, of which seeds are then repeats."""
    return values.index.get_level_values("split").nunique() > 1


def units(values: Any, nested: bool) -> Any:
    """Independent rows from rows by (split, seed): of several splits the means over their seeds.

    All seeds of a split are tested on the same patients, and a recipe that fails on these fails in
    every seed: counted as independent, ten seeds of five folds find differences where there are
    none in half of all studies. Of one split the seeds are the units: what is then found is found
    for these patients.

    Example:
        >>> index = pd.MultiIndex.from_product([["fold0", "fold1"], [1, 2]], names=PAIR)
        >>> values = pd.DataFrame({"full": [0.5, 0.7, 0.8, 0.8]}, index)
        >>> units(values, is_nested(values))["full"].round(6).tolist()
        [0.6, 0.8]
    """
    return values.groupby(level="split").mean() if nested else values


def by_group(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each (arch, scale), in the order of the rows, as a dict and its rows."""
    names: Any
    for names, group in rows.groupby(GROUP, sort=False):
        yield dict(zip(GROUP, names, strict=True)), group


def ordered(labels: list[str]) -> list[str]:
    """The baseline, the recipes by the paper's ids and then further ones, then PTQ and QAD.

    Example:
        >>> ordered(["qad full", "my own", "forward_only", "full", "baseline"])
        ['baseline', 'full', 'forward_only', 'my own', 'qad full']
    """
    known = recipes()

    def place(label: str) -> tuple[int, int, str]:
        method, _, recipe = label.partition(" ")
        if method not in _METHODS:
            method, recipe = "", label
        rank = 1 + _METHODS.index(method) if method else 0
        return rank, known.index(recipe) if recipe in known else len(known), label

    return sorted(labels, key=place)
