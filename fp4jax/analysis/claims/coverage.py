"""Which part of the stated study there is: runs, folds and patients of each recipe."""

from typing import Any

from fp4jax.analysis.claims.collected import Collected, labels
from fp4jax.analysis.figures.style import (
    ordered_archs,
    ordered_labels,
    ordered_scales,
    shown,
    title,
)
from fp4jax.analysis.stats.rows import training_set
from fp4jax.extras import Extra
from fp4jax.ops.recipe import get_recipe

with Extra("study"):
    import pandas as pd

#: Architectures of the paper.
ARCHS = ("cnn", "vit", "swin")
#: What the preset ``lgg-cv-cpu`` runs; a study without one of them is partial.
STATED = tuple(get_recipe(i).name for i in (0, 1, 2, 5))
#: The paper's eight, baseline first.
RECIPES = tuple(get_recipe(i).name for i in range(8))


def coverage(study: Collected) -> pd.DataFrame:
    """A row per architecture, scale and label: the paper's, whether there or not, then others.

    Returns:
        arch, scale, label, ``runs``, ``folds`` (training sets that there are), ``of_folds`` (that
        the cross-validation has; 1 for a study of another split), ``seeds``, ``patients`` (tested,
        each once), ``stated`` (whether the study is partial without it).
    """
    runs = study.runs.assign(label=labels(study.runs["recipe"], study.runs["method"]))
    tested: Any = study.scores
    found = []
    for scale in ordered_scales(runs["scale"]):
        at_scale: Any = runs[runs["scale"] == scale]
        every = ordered_labels([*RECIPES, *at_scale["label"]])
        for arch in ordered_archs([*ARCHS, *at_scale["arch"]]):
            for label in every:
                own = at_scale[(at_scale["arch"] == arch) & (at_scale["label"] == label)]
                who = tested[
                    (tested["arch"] == arch)
                    & (tested["scale"] == scale)
                    & (tested["label"] == label)
                ]
                found.append(
                    {"arch": arch, "scale": scale, "label": label, "runs": len(own)}
                    | {"folds": own["split"].map(training_set).nunique()}
                    | {"of_folds": expected_folds(runs), "seeds": own["seed"].nunique()}
                    | {"patients": who["patient"].nunique(), "stated": label in STATED}
                )
    return pd.DataFrame(found)


def expected_folds(runs: Any) -> int:
    """Training sets of the study's splits: of a cross-validation all its folds."""
    if runs["split"].str.startswith("fold").any():
        return int(runs["folds"].max())
    return runs["split"].map(training_set).nunique()


def missing(found: Any) -> list[str]:
    """What a stated study lacks, in words, for each architecture; empty if it is complete.

    Example:
        >>> rows = [("cnn", "500k", "full", 3, 5, True), ("cnn", "500k", "sr", 0, 5, False)]
        >>> names = ["arch", "scale", "label", "folds", "of_folds", "stated"]
        >>> missing(pd.DataFrame(rows, columns=names))
        ['CNN 500K: full (1) 2 of 5 folds']
    """
    lines = []
    for (arch, scale), own in found[found["stated"]].groupby(["arch", "scale"], sort=False):
        lacking = [
            f"{shown(row['label'])} {row['of_folds'] - row['folds']} of {row['of_folds']} folds"
            for row in own.to_dict(orient="records")
            if row["folds"] < row["of_folds"]
        ]
        if lacking:
            what = ", ".join(lacking) if own["folds"].any() else "everything"
            lines.append(f"{title(arch, scale)}: {what}")
    return lines


def whole_labels(scores: pd.DataFrame, arch: str, scale: str, folds: int) -> list[str]:
    """Labels of an architecture with patients of all folds in one seed at least, in order."""
    own: Any = scores[(scores["arch"] == arch) & (scores["scale"] == scale)]
    sets = own["split"].map(training_set)
    counts = sets.groupby([own["label"], own["seed"]]).nunique()
    return ordered_labels(counts[counts >= folds].index.get_level_values("label"))
