"""What a run scored on its test patients, with intervals for other patients."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax.metrics import Histogram
from fp4jax.train.folder import RunFolder
from fp4jax.train.patients import read_scores

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of the test patients.

    Attributes:
        name: such as "auprc".
        value: of all test patients.
        interval: of 95 %, percentiles of the bootstrap over patients; None where it is not known.
        patients: how many there are.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    patients: int

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} (95 % interval {self.interval[0]:.3f} to {self.interval[1]:.3f})"


def scores_of(folder: Path) -> tuple[Score, ...]:
    """Average precision of all pixels, and the mean of the patients' Dice at the run's threshold.

    An interval says how far other test patients would move the score; not what another seed would
    do, for which runs are repeated. It is too narrow by about sqrt(1 - 1 / p) with p patients.

    Args:
        folder: of a run. Of one that is not finished, or kept no scores, nothing is known.
    """
    summary = RunFolder(folder).summary() or {}
    found = []
    if (folder / "test_scores.npz").exists():
        histograms = list(read_scores(folder / "test_scores.npz").values())
        found.append(_score("auprc", histograms, _average_precision))
    dice = [d for d in summary.get("test_patients", {}).values() if d is not None]
    if dice:
        found.append(_score("dice", dice, lambda some: float(np.nanmean(some))))
    return tuple(score for score in found if np.isfinite(score.value))


def _score(name: str, patients: Sequence[Any], of: Callable[[list[Any]], float]) -> Score:
    """With the 2.5 and 97.5 % points of draws of patients with replacement."""
    rng, n = np.random.default_rng(0), len(patients)
    drawn = [of([patients[i] for i in rng.integers(0, n, n)]) for _ in range(_DRAWS)]
    drawn = [value for value in drawn if np.isfinite(value)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn and n > 1 else (np.nan, np.nan)
    interval = (float(low), float(high)) if np.isfinite(low) else None
    return Score(name, of(list(patients)), interval, n)


def _average_precision(histograms: list[Histogram]) -> float:
    counts = np.sum([np.asarray(h.counts) for h in histograms], axis=0, dtype=np.uint32)
    invalid = np.sum([np.asarray(h.invalid) for h in histograms], dtype=np.uint32)
    return Histogram(jnp.asarray(counts), jnp.asarray(invalid)).average_precision().value
