"""Parts of claims: what one comparison says of one, see :mod:`fp4jax.analysis.claims.rules`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fp4jax.analysis.figures.style import ordered_scales, title
from fp4jax.analysis.stats.verdicts import MARGIN
from fp4jax.extras import Extra

with Extra("study"):
    import pandas as pd
    import scipy.stats

CONFIRMED, NOT_CONFIRMED, OPEN = "confirmed", "not confirmed", "not decided here"
_NAN = float("nan")


class Part(NamedTuple):
    """A part of a claim: what it says, the interval that decides it, and the verdict."""

    claim: int
    part: str
    says: str
    # at which it is measured, or would be
    scale: str
    # what was compared; empty if nothing was
    measured: str = ""
    estimate: float = _NAN
    low: float = _NAN
    high: float = _NAN
    # 90 % interval of the test of equivalence, which shows it where it is within the margin
    low_90: float = _NAN
    high_90: float = _NAN
    verdict: str = OPEN
    # what is missing
    lacks: str = ""


@dataclasses.dataclass(frozen=True)
class Judge:
    """The contrasts and variances of one metric."""

    contrasts: pd.DataFrame
    variances: pd.DataFrame
    metric: str

    @property
    def scales(self) -> list[str]:
        """At which anything is compared, by size."""
        own: Any = self.contrasts
        return ordered_scales(own.loc[own["contrast"] != "scales", "scale"])

    @property
    def folds(self) -> int:
        """Of the study."""
        own: Any = self.contrasts
        return int(own["of_folds"].max()) if len(own) else 0

    def rows(self, contrast: str, **values: str) -> list[dict[str, Any]]:
        """Comparisons with these values of columns."""
        own: Any = self.contrasts[self.contrasts["contrast"] == contrast]
        for column, value in values.items():
            own = own[own[column] == value]
        return own.to_dict(orient="records")

    def variance(self, source: str, scale: str) -> dict[str, Any] | None:
        """A source, if the study has it at that scale."""
        own: Any = self.variances
        own = own[(own["source"] == source) & (own["metric"] == self.metric)]
        rows = own[own["scale"] == scale].to_dict(orient="records")
        return rows[0] if rows else None


def more(row: dict[str, Any], sign: int = 1) -> str:
    """That a scores more than b (sign 1), or b more than a (-1)."""
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    if high < 0 or row["verdict"] in ("equivalent", "differs, within margin"):
        return NOT_CONFIRMED
    return CONFIRMED if low > 0 and row["verdict"] == "differs" else OPEN


def equal(row: dict[str, Any]) -> str:
    """That a and b are equivalent."""
    if row["verdict"] in ("equivalent", "differs, within margin"):
        return CONFIRMED
    outside = row["ci_low"] > MARGIN or row["ci_high"] < -MARGIN
    return NOT_CONFIRMED if row["verdict"] == "differs" or outside else OPEN


def part_of(
    part: Part, rows: Sequence[dict[str, Any]], rule: Callable[[dict[str, Any]], str], sign: int = 1
) -> Part:
    """The part decided by the first row; without any, or without some of its folds, it is open.

    Args:
        part: what it says, and what it lacks if there is no row.
        rows: comparisons.
        rule: the verdict of one.
        sign: 1 for a - b, -1 for b - a.
    """
    if not rows:
        return part
    row = rows[0]
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    first, second = (row["a"], row["b"]) if sign == 1 else (row["b"], row["a"])
    arch = title(row["arch"]) if row["arch"] in ("cnn", "vit", "swin") else row["arch"]
    measured = f"{arch} at {row['scale']}: {first} - {second}"
    estimate = sign * row["difference"]
    part = part._replace(measured=measured, estimate=estimate, low=low, high=high)
    half = float(scipy.stats.t.ppf(0.95, row["freedom"])) * row["error"]
    part = part._replace(low_90=estimate - half, high_90=estimate + half)
    if row["folds"] < row["of_folds"]:
        return part._replace(lacks=f"{row['of_folds'] - row['folds']} of {row['of_folds']} folds")
    return part._replace(verdict=rule(row), lacks="")


def least_of(part: Part, rows: Sequence[dict[str, Any] | None]) -> Part:
    """That differences of variances are above 0: the least decides; all must be there."""
    there = [row for row in rows if row is not None]
    if len(there) < len(rows):
        return part
    row = min(there, key=lambda row: row["low"])
    below = any(row["high"] < 0 for row in there)
    verdict = NOT_CONFIRMED if below else CONFIRMED if row["low"] > 0 else OPEN
    if below:
        row = min(there, key=lambda row: row["high"])
    measured = f"{row['source']} at {row['scale']}, variances"
    interval = {"estimate": row["variance"], "low": row["low"], "high": row["high"]}
    return part._replace(measured=measured, verdict=verdict, lacks="", **interval)


def worst(parts: Sequence[Part], size: Callable[[Part], float]) -> Part:
    """What decides if all are to be: one that lacks something, else the largest of the worst."""
    lacking = [part for part in parts if part.lacks]
    if lacking:
        return lacking[0]
    order = (CONFIRMED, OPEN, NOT_CONFIRMED)
    return max(parts, key=lambda part: (order.index(part.verdict), size(part)))
