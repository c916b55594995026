"""The paper's five claims, and the rules by which a study's contrasts decide them.

The rules were written before any contrast of the study ``lgg-cv-cpu`` was computed; what was
changed later is at the end. Differences are of the metric, over patients
(:func:`fp4jax.analysis.stats.compare_patients`), with hierarchical 95 % intervals; the margin is
0.02. AUPRC decides; what the same rules say of F2 stands beside it.

**Parts.** A claim has parts, each about one comparison:

- that *a scores more than b* is **confirmed** if both tests find it (verdict "differs") and the
  interval is above 0; **not confirmed** if the interval is below 0, or if a difference is shown to
  be within the margin ("equivalent", "differs, within margin"); else **not decided here**.
- that *a and b are equivalent* is **confirmed** if a difference is shown to be within the margin;
  **not confirmed** if both tests find a difference that is not, or the whole interval is outside
  the margin; else **not decided here**.
- that *one variance exceeds another* is **confirmed** if the interval of their difference is above
  0, **not confirmed** if it is below, else **not decided here**.

What lacks a recipe, an architecture, a scale or a fold is **not decided here**, whatever the part
that is there says, and what it lacks is named. Of a group of recipes those take part that have all
folds; one is enough.

**Scale.** Claims 3 and 4 name theirs. Claim 1 is about every scale, 2 about larger ones than 500k,
5 about 4M. Their parts are measured at one scale, also where it is none of these, so that a smaller
study can say something: of those at which the fewest parts lack anything the largest; but claim 1
at the one with the worst verdict, and claim 5 at 4M if that is one of them.

**Claims.** Confirmed if all parts are, not confirmed if one is not, else not decided here; without
the scales that a claim is about it is not decided, whatever its parts say. (One scale is enough to
show that not every one is as claim 1 says.) The claims, with the paper's words in ours:

1. *Architecture matters more than recipe; Swin is the most robust, at every scale.* (a) The
   variance between architectures, one of them Swin, exceeds that between recipes. (b) The variance
   between recipes within Swin is below that within each other architecture; the least of these
   differences decides.
2. *At larger scales the CNN suffers from quantized gradients; advanced recipes reduce it.* In the
   CNN (a) recipes that quantize the forward pass alone (2, 3, 7) score more than those that
   quantize gradients (1, 4, 5, 6); (b) recipes 4, 5 and 6 score more than recipe 1.
3. *FP4 can collapse the attention of small transformers; advanced recipes prevent it.* At 500k (a)
   recipe 1 costs the ViT or Swin more than the margin: confirmed if of one of them both tests find
   the loss and its interval is above 0.02; not confirmed if both intervals are below 0.02; both
   must be there. (b) In every architecture of which (a) is found recipes 4, 5 and 6 score more than
   recipe 1; the worst decides. Where (a) is not confirmed there is nothing to prevent, and this is
   not decided.
4. *4M is the sweet spot; Swin is insensitive to the recipe there.* (a) The baseline of Swin scores
   more at 4M than at 500k. (b) At 4M each of the seven recipes is equivalent to the baseline; the
   one with the widest loss decides, once all are there.
5. *Five folds confirm it at 4M for recipe 5.* Of a study of several folds (a) Swin under recipe 5
   is equivalent to its baseline; (b) recipe 5 costs the CNN more than Swin.

**Changes.** After ten runs of the study had been seen (of the CNN alone: its baseline, recipe 1,
and a part of recipe 2), a review of the code changed 1a (Swin must be there), 3 (both architectures
must be, and each that collapses is judged), 4b (all seven recipes), 5 (several folds) and the scale
of 1, 2 and 5. No verdict changed by it: every part was "not decided here" before and after. After
all 60 runs had been seen, a review of the page made claims 1 and 5 wait for the scales that the
paper names (before, 500k alone could have decided them). No verdict changed by it: both were "not
decided here" before and after.
"""

from collections.abc import Sequence
from typing import Any

from fp4jax.analysis.claims.contrasts import CHOSEN
from fp4jax.analysis.claims.coverage import RECIPES
from fp4jax.analysis.claims.parts import (
    CONFIRMED,
    NOT_CONFIRMED,
    OPEN,
    Judge,
    Part,
    equal,
    least_of,
    more,
    part_of,
    worst,
)
from fp4jax.analysis.figures.style import ordered_labels, shown, title
from fp4jax.analysis.stats.verdicts import MARGIN
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

#: Claims whose parts may be measured at another scale than theirs.
OF_ANY_SCALE = (1, 2, 5)
_SMALLEST, _SWEET, _LARGEST = "500k", "4m", "15m"

CLAIMS = {
    1: "architecture matters more than recipe, and Swin is the most robust to the recipe at every "
    "scale",
    2: "at larger scales the CNN suffers from quantized gradients (recipes 1, 4, 5, 6 against "
    "2, 3, 7); 2D weight tiles, rotation and stochastic rounding (4, 5, 6) reduce it",
    3: "FP4 can collapse the attention of small transformers; recipes 4, 5 and 6 prevent it",
    4: "4M parameters are the sweet spot, where Swin is insensitive to the recipe",
    5: "five folds at 4M confirm that: Swin keeps its score under recipe 5, and the CNN loses more",
}


def decided(contrasts: Any, variances: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every part of every claim by one metric.

    Args:
        contrasts: of :func:`fp4jax.analysis.claims.contrasts.compared`.
        variances: of :func:`fp4jax.analysis.claims.variance.variances`.
        metric: "auprc" or "f2".

    Returns:
        A row per part with the fields of :class:`fp4jax.analysis.claims.parts.Part` and ``metric``,
        ``of_claim``, the verdict of the claim as a whole, and ``claim_lacks``, scales that it is
        about and the study has not, as far as they are needed.
    """
    judge = Judge(contrasts[contrasts["metric"] == metric], variances, metric)
    parts = [part for claim in CLAIMS for part in _of_claim(judge, claim)]
    frame: Any = pd.DataFrame([{"metric": metric, **part._asdict()} for part in parts])
    whole = {claim: _whole(judge, [p for p in parts if p.claim == claim]) for claim in CLAIMS}
    for i, name in enumerate(("of_claim", "claim_lacks")):
        frame[name] = [whole[claim][i] for claim in frame["claim"]]
    return frame


def _of_claim(judge: Judge, claim: int) -> list[Part]:
    """The parts, where they may be measured at any scale at the one that the rules say."""
    if claim not in OF_ANY_SCALE:
        return {3: _third, 4: _fourth}[claim](judge)
    measure = {1: _first, 2: _second, 5: _fifth}[claim]
    found = [measure(judge, scale) for scale in reversed(judge.scales or [_SMALLEST])]

    def order(parts: Sequence[Part]) -> tuple[Any, ...]:
        worst_first = claim == 1 and _rank(_verdict(parts))
        return _lacking(parts), worst_first, claim == 5 and parts[0].scale != _SWEET

    return min(found, key=order)


def _lacking(parts: Sequence[Part]) -> int:
    return sum(bool(part.lacks) for part in parts)


def _rank(verdict: str) -> int:
    return (NOT_CONFIRMED, OPEN, CONFIRMED).index(verdict)


def _first(judge: Judge, scale: str) -> list[Part]:
    own = judge.variance("architecture - recipe", scale)
    known = own if own is not None and "swin" in own["archs"].split(", ") else None
    says = "the variance between architectures exceeds that between recipes"
    lacks = "two recipes with all folds in two architectures, one of them Swin"
    parts = [least_of(Part(1, "a", says, scale, lacks=lacks), [known])]
    others = [
        judge.variance(f"recipe in {arch} - recipe in swin", scale) for arch in ("cnn", "vit")
    ]
    says = "recipes vary less within Swin than within each other architecture"
    lacks = "two recipes with all folds in each of the CNN, the ViT and Swin"
    return [*parts, least_of(Part(1, "b", says, scale, lacks=lacks), others)]


def _second(judge: Judge, scale: str) -> list[Part]:
    says = "in the CNN, recipes that quantize the forward pass alone score more"
    lacks = "in the CNN, a recipe of (1, 4, 5, 6) and one of (2, 3, 7) with all folds"
    rows = judge.rows("gradients", arch="cnn", scale=scale)
    parts = [part_of(Part(2, "a", says, scale, lacks=lacks), rows, more)]
    says = "in the CNN, recipes 4, 5 and 6 score more than recipe 1"
    lacks = "in the CNN, recipe 1 and one of (4, 5, 6) with all folds"
    return [*parts, _advanced(judge, Part(2, "b", says, scale, lacks=lacks), "cnn")]


def _advanced(judge: Judge, part: Part, arch: str) -> Part:
    """That recipes 4, 5 and 6 score more than recipe 1 there."""
    rows = judge.rows("advanced", arch=arch, scale=part.scale)
    return part_of(part, rows, lambda row: more(row, -1), sign=-1)


def _third(judge: Judge) -> list[Part]:
    says = f"recipe 1 costs the ViT or Swin more than {MARGIN:g}"
    lacks = f"recipe 1 and the baseline in the ViT and in Swin at {_SMALLEST}"
    rows = [
        row
        for arch in ("vit", "swin")
        for row in judge.rows("recipes", arch=arch, scale=_SMALLEST, b="full")
    ]
    found = [part_of(Part(3, "a", says, _SMALLEST, lacks=lacks), [row], _collapses) for row in rows]
    first = Part(3, "a", says, _SMALLEST, lacks=lacks)
    if found:
        first = max(found, key=lambda part: (part.verdict == CONFIRMED, part.high))
    if len(found) < 2 or any(part.lacks for part in found):
        lacks = next((part.lacks for part in found if part.lacks), lacks)
        first = first._replace(verdict=OPEN, lacks=lacks)
    says = "there, recipes 4, 5 and 6 score more than recipe 1"
    second = Part(3, "b", says, _SMALLEST)
    if first.verdict != CONFIRMED:
        none = first.verdict == NOT_CONFIRMED
        lacks = "a collapse to be prevented" if none else "an answer to (a)"
        return [first, second._replace(lacks=lacks)]
    parts = []
    for row, part in zip(rows, found, strict=True):
        if part.verdict == CONFIRMED:
            lacks = f"in {title(row['arch'])}, one of (4, 5, 6) with all folds"
            parts.append(_advanced(judge, second._replace(lacks=lacks), row["arch"]))
    return [first, worst(parts, lambda part: -part.low)]


def _collapses(row: dict[str, Any]) -> str:
    """That recipe 1 costs more than the margin."""
    if row["verdict"] == "differs" and row["ci_low"] > MARGIN:
        return CONFIRMED
    return NOT_CONFIRMED if row["ci_high"] < MARGIN else OPEN


def _fourth(judge: Judge) -> list[Part]:
    says = "the baseline of Swin scores more at 4M than at 500k"
    rows = judge.rows("scales", a=_SWEET, b=_SMALLEST)
    lacks = "baselines of Swin at 500k and 4M"
    parts = [part_of(Part(4, "a", says, _SWEET, lacks=lacks), rows, more)]
    says = "at 4M every recipe is equivalent to the baseline in Swin"
    second = Part(4, "b", says, _SWEET)
    found = {
        label: part_of(
            second._replace(lacks="its runs"),
            judge.rows("recipes", arch="swin", scale=_SWEET, b=label),
            equal,
        )
        for label in ordered_labels(RECIPES[1:])
    }
    lacking = [shown(label) for label, part in found.items() if part.lacks]
    there = [part for part in found.values() if not part.lacks]
    if there:
        second = worst(there, lambda part: max(abs(part.low), abs(part.high)))
    if lacking:
        lacks = f"in Swin at {_SWEET}, {', '.join(lacking)} with all folds"
        second = second._replace(verdict=OPEN, lacks=lacks)
    return [*parts, second]


def _fifth(judge: Judge, scale: str) -> list[Part]:
    says = "Swin under recipe 5 is equivalent to its baseline"
    lacks = "recipe 5 and the baseline in Swin"
    rows = judge.rows("recipes", arch="swin", scale=scale, b=CHOSEN)
    parts = [part_of(Part(5, "a", says, scale, lacks=lacks), rows, equal)]
    says = "recipe 5 costs the CNN more than Swin"
    lacks = "recipe 5 in the CNN and in Swin"
    rows = judge.rows("architectures", scale=scale)
    parts.append(part_of(Part(5, "b", says, scale, lacks=lacks), rows, more))
    if judge.folds > 1:
        return parts
    return [p._replace(verdict=OPEN, lacks=p.lacks or "several folds") for p in parts]


def _verdict(parts: Sequence[Part]) -> str:
    verdicts = {part.verdict for part in parts}
    if NOT_CONFIRMED in verdicts:
        return NOT_CONFIRMED
    return CONFIRMED if verdicts == {CONFIRMED} else OPEN


def _whole(judge: Judge, parts: Sequence[Part]) -> tuple[str, str]:
    """The claim's verdict, and the scales that it waits for."""
    claim, scale, verdict = parts[0].claim, parts[0].scale, _verdict(parts)
    lacks = ""
    if claim == 1 and verdict != NOT_CONFIRMED:
        every = (_SMALLEST, _SWEET, _LARGEST)
        there = [s for s in judge.scales if not _lacking(_first(judge, s))]
        lacks = ", ".join(s.upper() for s in every if s not in there)
    elif claim == 2 and scale == _SMALLEST:
        lacks = f"a scale above {_SMALLEST.upper()}"
    elif claim == 5 and scale != _SWEET:
        lacks = _SWEET.upper()
    return (OPEN if lacks else verdict), lacks
