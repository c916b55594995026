"""Exact average precision and ROC-AUC, and curves, from sorted scores.

Positives and negatives are sorted apart, without an index: 25 million float32 scores need their
own size once more. Values equal scikit-learn's up to rounding in float64, ties included.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Points of a precision-recall curve (x recall, y precision) or ROC (x FPR, y TPR)."""

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Scores of positive and of negative pixels, each sorted in rising order.

    Example:
        >>> import numpy as np
        >>> ranking = Ranking.of(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> print(f"{ranking.average_precision():.3f} {ranking.roc_auc():.2f}")
        0.833 0.75
    """

    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray) -> "Ranking":
        """Splits and sorts scores by labels 0 and 1; any shape, the same for both.

        Raises:
            ValueError: if the shapes differ, labels are not 0 or 1, or a score is NaN.
        """
        scores, labels = np.asarray(scores), np.asarray(labels)
        if scores.shape != labels.shape:
            raise ValueError(
                f"scores have shape {scores.shape}, labels {labels.shape}; equal them."
            )
        check_binary(labels)
        labels = labels.astype(bool, copy=False)
        return cls.sort(scores[labels], scores[~labels])

    @classmethod
    def sort(cls, positive: np.ndarray, negative: np.ndarray) -> "Ranking":
        """Sorts the two arrays in place.

        Raises:
            ValueError: if a score is NaN.
        """
        for scores in (positive, negative):
            scores.sort()
            # NaN sorts to the end.
            if len(scores) and np.isnan(scores[-1]):
                raise ValueError(
                    f"{np.count_nonzero(np.isnan(scores))} scores are NaN and have no rank; "
                    "the model has diverged, or the scores are 0/0."
                )
        return cls(positive, negative)

    def average_precision(self) -> float:
        """sum_n (R_n - R_{n-1}) P_n over distinct scores, best first; NaN without positives."""
        total = len(self.positive)
        if total == 0:
            return float("nan")
        # Scores of negatives alone add no recall, so the positives' are all that matters.
        first = _first_of_runs(self.positive)
        count = np.diff(np.append(first, total))
        tp = total - first
        fp = len(self.negative) - np.searchsorted(self.negative, self.positive[first], "left")
        return float(np.sum(count * (tp / (tp + fp))) / total)

    def roc_auc(self) -> float:
        """P(positive above negative) + P(equal) / 2; NaN without positives or negatives."""
        pairs = len(self.positive) * len(self.negative)
        if pairs == 0:
            return float("nan")
        first = _first_of_runs(self.positive)
        count = np.diff(np.append(first, len(self.positive)))
        below = np.searchsorted(self.negative, self.positive[first], "left")
        not_above = np.searchsorted(self.negative, self.positive[first], "right")
        return float(np.sum(count * (below + not_above)) / 2 / pairs)

    def pr_curve(self, thresholds: np.ndarray | None = None, eps: float = 1e-6) -> Curve:
        """Precision over recall at score >= t, with ``eps`` in the denominators.

        Without thresholds 100 of equal distance from 0 to 1, as the reference's figures have it.
        """
        t, tp, fp = self._counts(thresholds)
        return Curve(tp / (len(self.positive) + eps), tp / (tp + fp + eps), t)

    def roc_curve(self, thresholds: np.ndarray | None = None, eps: float = 1e-6) -> Curve:
        """TPR over FPR at score >= t; thresholds and ``eps`` as in :meth:`pr_curve`."""
        t, tp, fp = self._counts(thresholds)
        return Curve(fp / (len(self.negative) + eps), tp / (len(self.positive) + eps), t)

    def _counts(self, thresholds: np.ndarray | None):
        t = np.linspace(0, 1, 100) if thresholds is None else np.asarray(thresholds, np.float64)
        tp = len(self.positive) - np.searchsorted(self.positive, t, "left")
        fp = len(self.negative) - np.searchsorted(self.negative, t, "left")
        return t, tp, fp


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """:meth:`Ranking.average_precision` of scores and labels: scikit-learn's, exactly.

    Example:
        >>> import numpy as np
        >>> print(f"{average_precision(np.array([0.1, 0.4, 0.8]), np.array([0, 1, 0])):.2f}")
        0.50
    """
    return Ranking.of(scores, labels).average_precision()


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """:meth:`Ranking.roc_auc` of scores and labels: scikit-learn's, exactly.

    Example:
        >>> import numpy as np
        >>> roc_auc(np.array([0.1, 0.4, 0.8]), np.array([0, 1, 0]))
        0.5
    """
    return Ranking.of(scores, labels).roc_auc()


def check_binary(masks: np.ndarray) -> None:
    """Raises a ValueError unless all values are 0 or 1."""
    if masks.dtype == bool or not masks.size:
        return
    bad = masks[(masks != 0) & (masks != 1)]
    if bad.size:
        raise ValueError(
            f"{bad.size} values of the mask are neither 0 nor 1, the first {bad[0]}; divide masks "
            "stored as 0 and 255 by 255."
        )


def _first_of_runs(values: np.ndarray) -> np.ndarray:
    """Index of the first of each run of equal values."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))
