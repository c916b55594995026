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
        cross-validation, of which a comparison has ``folds``), ``of_patients`` (tested under a or
        b; ``n`` of them have the metric under every recipe that takes part, and are compared), then
        the columns of :func:`fp4jax.analysis.stats.compare_patients`: ``difference`` is a - b, of
        patients. Holm's correction is within a contrast, metric, architecture and scale. Empty
        without any pair.
    """
    found, folds = [], expected_folds(study.runs)
    for contrast in _contrasts(study.scores, folds):
        for metric in metrics:
            known = contrast.table[contrast.table[metric].notna()]
            if known.empty or (
                contrast.pairs == "baseline" and BASELINE not in set(known["label"])
            ):
                continue
            own = stats.compare_patients(known, metric, contrast.pairs, resamples=resamples)
            first = {"contrast": contrast.name, "metric": metric, "members": contrast.members}
            first |= {"of_folds": folds, "of_patients": _tested(contrast.table, own)}
            found.append(own.assign(**first)[own["n"] > 0])
    found = [own for own in found if len(own)]
    names = ["contrast", "metric", "members", "of_folds", "of_patients"]
    if not found:
        return pd.DataFrame(columns=[*names, "arch", "scale", "a", "b", "folds"])
    whole: Any = pd.concat(found, ignore_index=True)
    return whole[[*names, *(name for name in whole.columns if name not in names)]]


def _tested(table: Any, comparisons: Any) -> list[int]:
    """Patients of each comparison, with the metric or without."""
    by = table.groupby(["arch", "scale", "label"])["patient"].agg(set)
    return [
        len(by[row["arch"], row["scale"], row["a"]] | by[row["arch"], row["scale"], row["b"]])
        for row in comparisons.to_dict(orient="records")
    ]


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
    wide: Any = own.set_index([*_PART, "label"])[list(METRICS)].unstack("label")
    # A patient without a value of one recipe is in no group's mean: the others would weigh more.
    means = [
        pd.DataFrame({m: wide[m][recipes].mean(axis=1, skipna=False) for m in METRICS})
        .assign(label=group)
        .reset_index()
        for group, recipes in there.items()
    ]
    table: Any = pd.concat(means, ignore_index=True)
    members = "; ".join(f"{group}: {', '.join(recipes)}" for group, recipes in there.items())
    yield Contrast(name, table, "all", members)


def _architectures(scores: Any) -> Iterator[Contrast]:
    """What the chosen recipe costs each patient in the CNN, and in Swin."""
    of_both = scores[scores["arch"].isin(["cnn", "swin"])]
    first, second = (
        of_both[of_both["label"] == label].set_index(_PART)[list(METRICS)]
        for label in (BASELINE, CHOSEN)
    )
    table: Any = (first - second).dropna(how="all").reset_index()
    if table["arch"].nunique() == 2:
        table = table.assign(label="loss of " + table["arch"], arch="cnn and swin")
        yield Contrast("architectures", table, "all", f"losses under {CHOSEN}")


def _scales(scores: Any) -> Iterator[Contrast]:
    """Baselines of Swin at the sizes that there are."""
    own: Any = scores[(scores["arch"] == "swin") & (scores["label"] == BASELINE)]
    if own["scale"].nunique() > 1:
        yield Contrast("scales", own.assign(label=own["scale"], scale="all"), "all")
