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
# What makes the table, by what tells its rows apart.
_MADE_BY = {
    (): "fp4jax.analysis.results.table",
    ("patient",): "fp4jax.analysis.by_patient.patient_table",
}


def defined_rows(table: pd.DataFrame, metric: str, *within: str) -> pd.DataFrame:
    """Columns arch, scale, label, split, seed and ``value``, without rows where the metric is NaN.

    Args:
        table: of runs, or of their patients.
        metric: a column.
        within: further columns that tell rows of one run apart, kept before ``value``.

    Raises:
        ValueError: if a column is missing, no row is left, or a run occurs twice.
    """
    keys = [*GROUP, "label", *PAIR, *within]
    missing = [column for column in [*keys, metric] if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(str, table.columns))}. Pass {_MADE_BY[within]}(runs) and one of its "
            "metrics."
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


def unit(values: Any) -> str:
    """What the independent rows of values by (split, seed) are: "seed", "fold" or "split".

    All seeds of a fold are tested on the same patients, and a recipe that fails on these fails in
    every seed: taken for independent, ten seeds of five folds find differences where there are
    none in half of all studies. So of several splits a unit is a split, and its seeds are averaged.
    Of one split the seeds are the units: what is then found is found for these patients.

    The two halves of a fold of a cross-fit (``fold0``, ``fold0_swapped``) have one training set and
    are one unit.
    """
    splits = _training_sets(values).unique()
    if len(splits) == 1:
        return "seed"
    return "fold" if all(str(split).startswith("fold") for split in splits) else "split"


def units(values: Any, kind: str) -> Any:
    """The independent rows among values by (split, seed): seeds, or means over each split's seeds.

    Args:
        kind: what :func:`unit` said of all rows of the group, also if ``values`` are some of them.

    Example:
        >>> index = pd.MultiIndex.from_product([["fold0", "fold1"], [1, 2]], names=PAIR)
        >>> values = pd.DataFrame({"full": [0.5, 0.7, 0.8, 0.8]}, index)
        >>> unit(values), units(values, unit(values))["full"].round(6).tolist()
        ('fold', [0.6, 0.8])
    """
    # Seeds of one training set, also where its test patients are in two parts.
    by = values.index.get_level_values("seed") if kind == "seed" else _training_sets(values)
    return values.groupby(by, sort=False).mean()


def training_set(split: str) -> str:
    """The splits with the same training patients by one name: a fold and its mirror image.

    Example:
        >>> training_set("fold3_swapped"), training_set("holdout")
        ('fold3', 'holdout')
    """
    return str(split).removesuffix("_swapped")


def _training_sets(values: Any) -> Any:
    return values.index.get_level_values("split").map(training_set)


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
