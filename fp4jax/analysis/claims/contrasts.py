"""The contrasts that the study states, and those that the paper's claims need, over patients."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fp4jax.analysis import stats
from fp4jax.analysis.claims.collected import METRICS, Collected
from fp4jax.analysis.claims.coverage import expected_folds, whole_labels
from fp4jax.analysis.figures.style import ordered_archs, ordered_scales
from fp4jax.analysis.stats.rows import BASELINE
from fp4jax.extras import Extra
from fp4jax.ops.recipe import get_recipe

with Extra("study"):
    import pandas as pd

#: Recipes that quantize gradients, and those that quantize the forward pass alone, as the preset
#: ``lgg-cv-cpu`` states them.
GRADIENTS = tuple(get_recipe(i).name for i in (1, 4, 5, 6))
FORWARD = tuple(get_recipe(i).name for i in (2, 3, 7))
#: With 16x16 weight tiles, rotation or stochastic rounding, against "full" without.
ADVANCED = tuple(get_recipe(i).name for i in (4, 5, 6))
#: The paper's recipe of its cross-validation.
CHOSEN = get_recipe(5).name

_PART = ["arch", "scale", "split", "seed", "patient"]


class Contrast(NamedTuple):
    """A family of comparisons, made for each metric.

    Attributes:
        name: "recipes" (each with the baseline; of another method than QAT a family of its own,
            such as "recipes ptq"), "gradients", "advanced", "architectures" (what
            the chosen recipe costs the CNN, and Swin), "scales" (baselines).
        table: rows as :func:`fp4jax.analysis.stats.compare_patients` takes them.
        pairs: as there.
        members: which recipes a label stands for, where it is of several.
    """

    name: str
    table: Any
    pairs: str
    members: str = ""


def compared(
    study: Collected, resamples: int = 2000, metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """All contrasts of a study, for each metric.

    Returns:
        ``contrast``, ``metric``, ``members`` (see :class:`Contrast`), ``of_folds`` (of the whole
        cross-validation, of which a comparison has ``folds``), then the columns of
        :func:`fp4jax.analysis.stats.compare_patients`: ``difference`` is a - b, of patients. Holm's
        correction is within a contrast, metric, architecture and scale. Empty without any pair.
    """
    found, folds = [], expected_folds(study.runs)
    for contrast in _contrasts(study.scores, folds):
        for metric in metrics:
            if contrast.table[metric].notna().sum() == 0:
                continue
            own = stats.compare_patients(
                contrast.table, metric, contrast.pairs, resamples=resamples
            )
            first = {"contrast": contrast.name, "metric": metric, "members": contrast.members}
            found.append(own[own["n"] > 0].assign(of_folds=folds, **first))
    found = [own for own in found if len(own)]
    if not found:
        return pd.DataFrame(columns=["contrast", "metric", "arch", "scale", "a", "b"])
    names = ["contrast", "metric", "members", "of_folds"]
    whole: Any = pd.concat(found, ignore_index=True)
    return whole[[*names, *(name for name in whole.columns if name not in names)]]


def _contrasts(scores: Any, folds: int) -> Iterator[Contrast]:
    if BASELINE in set(scores["label"]):
        for method in dict.fromkeys(["qat", *scores["method"]]):
            name = "recipes" if method == "qat" else f"recipes {method}"
            own = scores[(scores["method"] == method) | (scores["label"] == BASELINE)]
            yield Contrast(name, own, "baseline")
    for scale in ordered_scales(scores["scale"]):
        for arch in ordered_archs(scores["arch"]):
            whole = whole_labels(scores, arch, scale, folds)
            rows = scores[(scores["arch"] == arch) & (scores["scale"] == scale)]
            if arch == "cnn":
                groups = {"forward only": FORWARD, "gradients": GRADIENTS}
                yield from _grouped("gradients", rows, groups, whole)
            groups = {"full": ("full",), "with 2D, RHT or SR": ADVANCED}
            yield from _grouped("advanced", rows, groups, whole)
        yield from _architectures(scores[scores["scale"] == scale])
    yield from _scales(scores)


def _grouped(
    name: str, rows: Any, groups: Mapping[str, Sequence[str]], whole: Sequence[str]
) -> Iterator[Contrast]:
    """Two groups of recipes: of each those that have all folds, with equal weights."""
    there = {group: [r for r in recipes if r in whole] for group, recipes in groups.items()}
    if not all(there.values()):
        return
    used = {recipe for recipes in there.values() for recipe in recipes}
    own = rows[rows["label"].isin(used)]
    # Only parts of which every recipe has a run: else groups would differ in patients too.
    count = own.groupby(_PART)["label"].transform("nunique")
    own = own[count == len(used)]
    group_of = {recipe: group for group, recipes in there.items() for recipe in recipes}
    table = own.assign(label=own["label"].map(group_of)).groupby([*_PART, "label"])
    members = "; ".join(f"{group}: {', '.join(recipes)}" for group, recipes in there.items())
    yield Contrast(name, table[list(METRICS)].mean().reset_index(), "all", members)


def _architectures(scores: Any) -> Iterator[Contrast]:
    """What the chosen recipe costs each patient in the CNN, and in Swin."""
    keys = [*_PART, "label"]
    both: Any = scores[scores["label"].isin([BASELINE, CHOSEN])].set_index(keys)[list(METRICS)]
    wide = both.unstack("label")
    lost = []
    for metric in METRICS:
        values = wide[metric].reindex(columns=[BASELINE, CHOSEN])
        lost.append((values[BASELINE] - values[CHOSEN]).rename(metric))
    table: Any = pd.concat(lost, axis=1).dropna(how="all").reset_index()
    table = table[table["arch"].isin(["cnn", "swin"])]
    if table["arch"].nunique() == 2:
        table = table.assign(label="loss of " + table["arch"], arch="cnn and swin")
        yield Contrast("architectures", table, "all", f"losses under {CHOSEN}")


def _scales(scores: Any) -> Iterator[Contrast]:
    """Baselines of Swin at the sizes that there are."""
    own: Any = scores[(scores["arch"] == "swin") & (scores["label"] == BASELINE)]
    if own["scale"].nunique() > 1:
        yield Contrast("scales", own.assign(label=own["scale"], scale="all"), "all")
