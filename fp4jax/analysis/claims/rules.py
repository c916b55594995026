"""The paper's five claims, and the rules by which a study's contrasts decide them.

The rules were written before any contrast of the study ``lgg-cv-cpu`` was computed. Differences
are of the metric, over patients (:func:`fp4jax.analysis.stats.compare_patients`), with hierarchical
95 % intervals; the margin is 0.02. AUPRC decides; what the same rules say of F2 stands beside it.

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
that is there says, and what it lacks is named.

**Claims.** Confirmed if all parts are, not confirmed if one is not, else not decided here. The
claims, with the paper's words in ours:

1. *Architecture matters more than recipe; Swin is the most robust.* (a) The variance between
   architectures exceeds that between recipes. (b) The variance between recipes within Swin is below
   that within each other architecture; the least of these differences decides.
2. *At larger scales the CNN suffers from quantized gradients; advanced recipes reduce it.* In the
   CNN (a) recipes that quantize the forward pass alone (2, 3, 7) score more than those that
   quantize gradients (1, 4, 5, 6); (b) recipes 4, 5 and 6 score more than recipe 1. Measured at the
   largest scale that there is; where that is 500k, the claim, which is about larger ones, is not
   decided, whatever its parts say of 500k.
3. *FP4 can collapse the attention of small transformers; advanced recipes prevent it.* At 500k (a)
   recipe 1 costs the ViT or Swin more than the margin: confirmed if of one of them both tests find
   the loss and its interval is above 0.02; not confirmed if both intervals are below 0.02. (b) In
   that architecture recipes 4, 5 and 6 score more than recipe 1; where (a) is not confirmed there
   is nothing to prevent, and this is not decided.
4. *4M is the sweet spot; Swin is insensitive to the recipe there.* (a) The baseline of Swin scores
   more at 4M than at 500k. (b) At 4M every recipe is equivalent to the baseline; the one with the
   widest loss decides.
5. *Five folds confirm it for recipe 5.* (a) Swin under recipe 5 is equivalent to its baseline.
   (b) Recipe 5 costs the CNN more than Swin.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fp4jax.analysis.claims.contrasts import CHOSEN
from fp4jax.analysis.figures.style import ordered_scales, title
from fp4jax.analysis.stats.verdicts import MARGIN
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd

CONFIRMED, NOT_CONFIRMED, OPEN = "confirmed", "not confirmed", "not decided here"
_SMALLEST = "500k"

CLAIMS = {
    1: "architecture matters more than recipe, and Swin is the most robust to the recipe",
    2: "at larger scales the CNN suffers from quantized gradients (recipes 1, 4, 5, 6 against "
    "2, 3, 7); 2D weight tiles, rotation and stochastic rounding (4, 5, 6) reduce it",
    3: "FP4 can collapse the attention of small transformers; recipes 4, 5 and 6 prevent it",
    4: "4M parameters are the sweet spot, where Swin is insensitive to the recipe",
    5: "five folds confirm it: Swin keeps its score under recipe 5, and the CNN loses more",
}


class Part(NamedTuple):
    """A part of a claim: what it says, the interval that decides it, and the verdict."""

    claim: int
    part: str
    says: str
    # what was compared, at which scale
    measured: str
    estimate: float
    low: float
    high: float
    verdict: str
    # what is missing
    lacks: str = ""


def decided(contrasts: Any, variances: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every part of every claim by one metric.

    Args:
        contrasts: of :func:`fp4jax.analysis.claims.contrasts.compared`.
        variances: of :func:`fp4jax.analysis.claims.variance.variances`.
        metric: "auprc" or "f2".

    Returns:
        A row per part with the fields of :class:`Part` and ``metric``, and ``of_claim``, the
        verdict of the claim as a whole.
    """
    judge = _Judge(contrasts[contrasts["metric"] == metric], variances, metric)
    parts = [part for claim in _PARTS for part in claim(judge)]
    frame: Any = pd.DataFrame([{"metric": metric, **part._asdict()} for part in parts])
    whole = {claim: _whole(claim, [p for p in parts if p.claim == claim]) for claim in CLAIMS}
    return frame.assign(of_claim=frame["claim"].map(whole))


@dataclasses.dataclass(frozen=True)
class _Judge:
    """The contrasts and variances of one metric."""

    contrasts: pd.DataFrame
    variances: pd.DataFrame
    metric: str

    def rows(self, contrast: str, **values: str) -> list[dict[str, Any]]:
        own: Any = self.contrasts[self.contrasts["contrast"] == contrast]
        for column, value in values.items():
            own = own[own[column] == value]
        return own.to_dict(orient="records")

    def scale(self, arch: str) -> str:
        """The largest that there is of an architecture's recipes."""
        known = ordered_scales(row["scale"] for row in self.rows("recipes", arch=arch))
        return known[-1] if known else _SMALLEST

    def variance(self, source: str) -> dict[str, Any] | None:
        own: Any = self.variances
        own = own[(own["source"] == source) & (own["metric"] == self.metric)]
        # The last scale is the largest.
        return own.to_dict(orient="records")[-1] if len(own) else None


def _more(row: dict[str, Any], sign: int = 1) -> str:
    """That a scores more than b (sign 1), or b more than a (-1)."""
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    if high < 0 or row["verdict"] in ("equivalent", "differs, within margin"):
        return NOT_CONFIRMED
    return CONFIRMED if low > 0 and row["verdict"] == "differs" else OPEN


def _equal(row: dict[str, Any]) -> str:
    """That a and b are equivalent."""
    if row["verdict"] in ("equivalent", "differs, within margin"):
        return CONFIRMED
    outside = row["ci_low"] > MARGIN or row["ci_high"] < -MARGIN
    return NOT_CONFIRMED if row["verdict"] == "differs" or outside else OPEN


def _part(
    claim: int,
    part: str,
    says: str,
    rows: Sequence[dict[str, Any]],
    rule: Callable[[dict[str, Any]], str],
    lacks: str,
    sign: int = 1,
) -> Part:
    """Of the first row; if there is none, or folds of it are missing, it is open."""
    nan = float("nan")
    if not rows:
        return Part(claim, part, says, "", nan, nan, nan, OPEN, lacks)
    row = rows[0]
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    first, second = (row["a"], row["b"]) if sign == 1 else (row["b"], row["a"])
    arch = title(row["arch"]) if row["arch"] in ("cnn", "vit", "swin") else row["arch"]
    measured = f"{arch} at {row['scale']}: {first} - {second}"
    estimate = sign * row["difference"]
    if row["folds"] < row["of_folds"]:
        lacks = f"{row['of_folds'] - row['folds']} of {row['of_folds']} folds"
        return Part(claim, part, says, measured, estimate, low, high, OPEN, lacks)
    return Part(claim, part, says, measured, estimate, low, high, rule(row))


def _first(judge: _Judge) -> list[Part]:
    lacks = "two recipes with all folds in two architectures, one of them Swin"
    says = "the variance between architectures exceeds that between recipes"
    parts = [_of_variances(1, "a", says, [judge.variance("architecture - recipe")], lacks)]
    others = [judge.variance(f"recipe in {arch} - recipe in swin") for arch in ("cnn", "vit")]
    says = "recipes vary less within Swin than within each other architecture"
    lacks = "two recipes with all folds in each of the CNN, the ViT and Swin"
    return [*parts, _of_variances(1, "b", says, others, lacks)]


def _of_variances(
    claim: int, part: str, says: str, rows: Sequence[dict[str, Any] | None], lacks: str
) -> Part:
    """The least difference decides; all must be there."""
    nan = float("nan")
    there = [row for row in rows if row is not None]
    if len(there) < len(rows):
        return Part(claim, part, says, "", nan, nan, nan, OPEN, lacks)
    row = min(there, key=lambda row: row["low"])
    below = any(row["high"] < 0 for row in there)
    verdict = NOT_CONFIRMED if below else CONFIRMED if row["low"] > 0 else OPEN
    if below:
        row = min(there, key=lambda row: row["high"])
    measured = f"{row['source']} at {row['scale']}, variances"
    return Part(claim, part, says, measured, row["variance"], row["low"], row["high"], verdict)


def _second(judge: _Judge) -> list[Part]:
    scale = judge.scale("cnn")
    gradients = judge.rows("gradients", arch="cnn", scale=scale)
    advanced = judge.rows("advanced", arch="cnn", scale=scale)
    says = "in the CNN, recipes that quantize the forward pass alone score more"
    lacks = "in the CNN, a recipe of (1, 4, 5, 6) and one of (2, 3, 7) with all folds"
    parts = [_part(2, "a", says, gradients, _more, lacks)]
    says = "in the CNN, recipes 4, 5 and 6 score more than recipe 1"
    lacks = "in the CNN, recipe 1 and one of (4, 5, 6) with all folds"
    return [*parts, _part(2, "b", says, advanced, lambda row: _more(row, -1), lacks, sign=-1)]


def _third(judge: _Judge) -> list[Part]:
    rows = [
        row
        for arch in ("vit", "swin")
        for row in judge.rows("recipes", arch=arch, scale=_SMALLEST, b="full")
    ]
    says = f"recipe 1 costs the ViT or Swin more than {MARGIN:g}"
    lacks = "recipe 1 and the baseline in the ViT and in Swin at 500k"
    whole = [row for row in rows if row["folds"] >= row["of_folds"]]
    lost = [row for row in whole if row["verdict"] == "differs" and row["ci_low"] > MARGIN]
    rows.sort(key=lambda row: -row["difference"])
    none = len(whole) == 2 and all(row["ci_high"] < MARGIN for row in whole)
    verdict = CONFIRMED if lost else NOT_CONFIRMED if none else OPEN
    decisive = lost or (sorted(whole, key=lambda row: -row["ci_high"]) if none else rows)
    first = _part(3, "a", says, decisive, lambda _: verdict, lacks)
    if not lost and 0 < len(whole) < 2 and not first.lacks:
        first = first._replace(verdict=OPEN, lacks=lacks)
    says = "there, recipes 4, 5 and 6 score more than recipe 1"
    if not lost:
        lacks = "a collapse to be prevented" if verdict == NOT_CONFIRMED else "an answer to (a)"
        return [first, _part(3, "b", says, [], _more, lacks)]
    rows = judge.rows("advanced", arch=lost[0]["arch"], scale=_SMALLEST)
    lacks = "one of (4, 5, 6) with all folds"
    return [first, _part(3, "b", says, rows, lambda row: _more(row, -1), lacks, sign=-1)]


def _fourth(judge: _Judge) -> list[Part]:
    says = "the baseline of Swin scores more at 4M than at 500k"
    rows = judge.rows("scales", a="4m", b=_SMALLEST)
    parts = [_part(4, "a", says, rows, _more, "baselines of Swin at 500k and 4M")]
    rows = judge.rows("recipes", arch="swin", scale="4m")
    found = [_part(4, "b", "", [row], _equal, "") for row in rows]
    says = "at 4M every recipe is equivalent to the baseline in Swin"
    if not rows:
        return [*parts, _part(4, "b", says, [], _equal, "recipes of Swin at 4M")]
    verdicts = [part.verdict for part in found]
    verdict = next((v for v in (NOT_CONFIRMED, OPEN) if v in verdicts), CONFIRMED)
    decisive = max(
        (part for part in found if part.verdict == verdict),
        key=lambda part: max(abs(part.low), abs(part.high)),
    )
    return [*parts, decisive._replace(says=says)]


def _fifth(judge: _Judge) -> list[Part]:
    rows = judge.rows("recipes", arch="swin", scale=judge.scale("swin"), b=CHOSEN)
    says = "Swin under recipe 5 is equivalent to its baseline"
    lacks = "recipe 5 and the baseline in Swin"
    parts = [_part(5, "a", says, rows, _equal, lacks)]
    rows = judge.rows("architectures", scale=judge.scale("cnn"))
    says = "recipe 5 costs the CNN more than Swin"
    return [*parts, _part(5, "b", says, rows, _more, "recipe 5 in the CNN and in Swin")]


_PARTS = (_first, _second, _third, _fourth, _fifth)


def _whole(claim: int, parts: Sequence[Part]) -> str:
    verdicts, small = {part.verdict for part in parts}, f" at {_SMALLEST}:"
    # Of the scales above: nothing measured there, nothing decided.
    if claim == 2 and not any(part.measured and small not in part.measured for part in parts):
        return OPEN
    if NOT_CONFIRMED in verdicts:
        return NOT_CONFIRMED
    return CONFIRMED if verdicts == {CONFIRMED} else OPEN
