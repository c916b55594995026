"""Expected calibration error, moments of logits, entropy, divergence from a baseline.

Probabilities are clipped to [1e-7, 1 - 1e-7] in float32 first. Everything is a sum over pixels, so
that a split can be added chunk by chunk.
"""

import numpy as np

CLIP = 1e-7
ECE_BINS = 15

#: How many pixels the functions of this package hold in temporary arrays at a time.
CHUNK = 1 << 20


class Calibration:
    """Sums for the expected calibration error, the logits' moments and the entropy.

    Bin i of ``bins`` covers p in (i / bins, (i + 1) / bins].

    Example:
        >>> import numpy as np
        >>> sums = Calibration()
        >>> sums.add(np.array([0.9, 0.9], np.float32), np.array([True, False]))
        >>> print(f"{sums.report()['ece']:.2f}")
        0.40
    """

    def __init__(self, bins: int = ECE_BINS):
        self.bins = bins
        self.pixels = np.zeros(bins)
        self.p = np.zeros(bins)
        self.y = np.zeros(bins)
        # of logits, of their squares about the first chunk's mean, of entropies
        self._sums = np.zeros(3)
        self._shift: float | None = None

    def add(self, p: np.ndarray, y: np.ndarray) -> None:
        """Adds pixels: float probabilities and boolean masks of one shape."""
        p = np.clip(p.ravel().astype(np.float32, copy=False), CLIP, np.float32(1 - CLIP))
        edges = np.arange(1, self.bins, dtype=np.float64) / self.bins
        # (lo, hi]: the bin's number is the number of edges below p.
        place = np.searchsorted(edges.astype(np.float32), p, "left")
        self.pixels += np.bincount(place, minlength=self.bins)
        self.p += np.bincount(place, p, self.bins)
        self.y += np.bincount(place[y.ravel()], minlength=self.bins)
        q = 1 - p
        logit = np.log(p / q)
        if self._shift is None:
            self._shift = float(logit.mean(dtype=np.float64))
        deviation = logit.astype(np.float64) - self._shift
        entropy = -(p * np.log(p + np.float32(1e-10)) + q * np.log(q + np.float32(1e-10)))
        self._sums += deviation.sum(), np.square(deviation).sum(), entropy.sum(dtype=np.float64)

    def report(self) -> dict[str, float]:
        """``ece``, ``logit_mean``, ``logit_std`` (population), ``prob_entropy``; NaN if empty."""
        n = self.pixels.sum()
        if n == 0 or self._shift is None:
            return dict.fromkeys(("ece", "logit_mean", "logit_std", "prob_entropy"), float("nan"))
        first, second, entropy = self._sums / n
        return {
            "ece": float(np.abs(self.y - self.p).sum() / n),
            "logit_mean": float(self._shift + first),
            "logit_std": float(np.sqrt(max(second - first**2, 0))),
            "prob_entropy": float(entropy),
        }


def expected_calibration_error(p: np.ndarray, y: np.ndarray, bins: int = ECE_BINS) -> float:
    """sum_bins (pixels in bin / pixels) |mean y - mean p|, over bins (lo, hi] of equal width.

    Example:
        >>> import numpy as np
        >>> print(f"{expected_calibration_error(np.array([0.2, 0.3]), np.array([0, 1])):.2f}")
        0.45
    """
    sums = Calibration(bins)
    sums.add(np.asarray(p), np.asarray(y).astype(bool))
    return sums.report()["ece"]


def kl_from_baseline(p: np.ndarray, baseline: np.ndarray, temperature: float = 2.0) -> float:
    """Mean over pixels of KL(baseline || p) of Bernoullis softened with a temperature, in nats.

    Args:
        p, baseline: probabilities of one shape.
        temperature: logits are divided by it.

    Raises:
        ValueError: if the shapes differ or the temperature is not positive.

    Example:
        >>> import numpy as np
        >>> kl_from_baseline(np.array([0.2, 0.9]), np.array([0.2, 0.9]))
        0.0
    """
    p, baseline = np.asarray(p).ravel(), np.asarray(baseline).ravel()
    if p.shape != baseline.shape or not p.size:
        raise ValueError(f"{p.size} and {baseline.size} probabilities; give equally many, >= 1.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}; give a positive number.")
    total = 0.0
    for start in range(0, p.size, CHUNK):
        a, b = (_softened(q[start : start + CHUNK], temperature) for q in (baseline, p))
        at = 1 / (1 + np.exp(-a))
        total += np.sum(np.logaddexp(0, b) - np.logaddexp(0, a) - at * (b - a))
    return float(max(total, 0.0) / p.size)


def _softened(p: np.ndarray, temperature: float) -> np.ndarray:
    p = np.clip(p.astype(np.float64), CLIP, 1 - CLIP)
    return (np.log(p) - np.log1p(-p)) / temperature
