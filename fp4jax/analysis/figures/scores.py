"""Scores of all test patients of a run as counts: what curves are drawn from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fp4jax.analysis.by_patient import patient_scores
from fp4jax.metrics import Histogram
from fp4jax.metrics.histogram import Reliability

if TYPE_CHECKING:
    from fp4jax.analysis.results import RunResult

#: Recalls at which curves are averaged.
RECALLS = np.linspace(0.005, 1, 200)


class Counts(NamedTuple):
    """Negative and positive pixels of each interval, by rising score."""

    negatives: np.ndarray
    positives: np.ndarray


def counts_of(run: "RunResult") -> Counts | None:
    """Sums over the test patients; None without scores, or without positive pixels."""
    scores = patient_scores(run)
    if scores is None:
        return None
    total = np.sum([np.asarray(h.counts, np.float64) for h in scores.values()], axis=0)
    counts = Counts(*total)
    return counts if counts.positives.sum() else None


def by_label(runs: "Sequence[RunResult]") -> dict[str, list[tuple["RunResult", Counts]]]:
    """The runs that have scores."""
    found: dict[str, list] = {}
    for run in runs:
        counts = counts_of(run)
        if counts is not None:
            found.setdefault(run.label, []).append((run, counts))
    return found


#: Pairs (run, its counts) by label, of each architecture and scale.
Scores = Mapping[tuple[str, str], dict[str, list[Any]]]


def by_group(runs: "Sequence[RunResult]") -> Scores:
    """:func:`by_label` of each architecture and scale that has scores."""
    groups = dict.fromkeys((run.config.arch, run.config.scale) for run in runs)
    found = {
        group: by_label([r for r in runs if (r.config.arch, r.config.scale) == group])
        for group in groups
    }
    return {group: labels for group, labels in found.items() if labels}


def precision_at(counts: Counts, recalls: np.ndarray = RECALLS) -> np.ndarray:
    """Precision at recalls: of the highest threshold that reaches each, pixels of an interval
    taken as evenly mixed.

    Example:
        >>> precision_at(Counts(np.array([2.0, 0.0]), np.array([1.0, 1.0])), np.array([0.5, 1.0]))
        array([1. , 0.5])
    """
    negatives, positives = counts.negatives[::-1], counts.positives[::-1]
    some = positives > 0
    hits = np.cumsum(positives)[some]
    above = (np.cumsum(negatives) - negatives)[some]
    inside, own = negatives[some], positives[some]
    wanted = recalls * hits[-1]
    place = np.minimum(np.searchsorted(hits, wanted - 1e-9 * hits[-1]), len(hits) - 1)
    part = np.clip((wanted - (hits - own)[place]) / own[place], 0, 1)
    false = above[place] + part * inside[place]
    return wanted / (wanted + false)


def reliability(counts: Counts) -> Reliability:
    """Calibration of the scores."""
    rows = jnp.asarray(np.stack(counts).astype(np.uint32))
    return Histogram(rows, jnp.zeros((), jnp.uint32)).reliability()
