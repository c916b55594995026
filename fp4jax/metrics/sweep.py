"""F2 over thresholds: choose the threshold on validation data, report it on test data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fp4jax.metrics.calibration import CHUNK
from fp4jax.metrics.overlap import f2

#: 0.05, 0.10, ... 0.95
THRESHOLDS = np.arange(1, 20) / 20

#: Where no threshold is best.
UNCHOSEN = 0.5

_EPS = 1e-7


class Sweep(NamedTuple):
    """F2 of ``p > threshold`` for each threshold; of equally good ones the lowest is best.

    Where F2 is 0 at all of them, as it is without positives, nothing speaks for any, and 0.5 is
    taken.
    """

    thresholds: np.ndarray
    f2: np.ndarray

    @property
    def best_threshold(self) -> float:
        """The threshold of the largest F2; 0.5 if there is none above 0."""
        return float(self.thresholds[np.argmax(self.f2)]) if self.chooses else UNCHOSEN

    @property
    def chooses(self) -> bool:
        """Whether any threshold is better than none: there are positives, and some are found."""
        return bool(np.any(self.f2 > 0))

    @property
    def best_f2(self) -> float:
        """The largest F2."""
        return float(np.max(self.f2))


class SweepCounts:
    """Counts of pixels between thresholds; a split can be added chunk by chunk."""

    def __init__(self, thresholds: np.ndarray = THRESHOLDS):
        self.thresholds = np.asarray(thresholds, np.float64)
        if self.thresholds.ndim != 1 or np.any(np.diff(self.thresholds) <= 0):
            raise ValueError(f"thresholds are {thresholds!r}; give them one by one, rising.")
        self.predicted = np.zeros(len(self.thresholds) + 1)
        self.true = np.zeros(len(self.thresholds) + 1)

    def add(self, p: np.ndarray, y: np.ndarray) -> None:
        """Adds pixels: probabilities and boolean masks of one shape."""
        # The number of thresholds below p, strictly; rounded as p is.
        below = np.searchsorted(self.thresholds.astype(p.dtype), p.ravel(), "left")
        self.predicted += np.bincount(below, minlength=len(self.predicted))
        self.true += np.bincount(below[y.ravel()], minlength=len(self.true))

    def sweep(self) -> Sweep:
        """The sweep of all pixels added; F2 is 0 without positives."""
        return sweep_of_counts(self.thresholds, self.predicted, self.true)


def sweep_of_counts(thresholds: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> Sweep:
    """From the pixels, and positive pixels, that have 0, 1, 2 ... thresholds below them."""
    above = np.cumsum(predicted[::-1])[::-1][1:]
    tp = np.cumsum(true[::-1])[::-1][1:]
    return Sweep(thresholds, f2(tp / (above + _EPS), tp / (true.sum() + _EPS), _EPS))


def threshold_sweep(p: np.ndarray, masks: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> Sweep:
    """F2 at ``p > t`` over all pixels, for each threshold.

    Example:
        >>> import numpy as np
        >>> sweep = threshold_sweep(np.array([0.2, 0.6, 0.9]), np.array([0, 1, 1]))
        >>> sweep.best_threshold, round(sweep.best_f2, 6)
        (0.2, 1.0)
    """
    p, masks = np.asarray(p).ravel(), np.asarray(masks).ravel()
    counts = SweepCounts(thresholds)
    for start in range(0, p.size, CHUNK):
        part = slice(start, start + CHUNK)
        counts.add(p[part], masks[part].astype(bool))
    return counts.sweep()


def mean_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """The average over recipes, from which the reference takes one threshold for all of them.

    Raises:
        ValueError: if there is none, or their thresholds differ.
    """
    if not sweeps or any(not np.array_equal(s.thresholds, sweeps[0].thresholds) for s in sweeps):
        raise ValueError("give at least one sweep, all with the same thresholds.")
    return Sweep(sweeps[0].thresholds, np.mean([s.f2 for s in sweeps], axis=0))
