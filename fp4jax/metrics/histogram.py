"""Average precision and ROC-AUC with bounds, from counts of pixels per interval of logits.

Two rows of counters on the device stand for all pixels. The intervals are of equal width between
logits -16 and 16, and open beyond; p is clipped to [1e-7, 1 - 1e-7], so nothing lies beyond
+-16.12. The 14 edges i / 15 of the calibration bins and the 19 thresholds i / 20 of the sweep cut
them further, so calibration bins and thresholds are exact.

Bounds. Let an interval hold c positives and n negatives, and A positives and B negatives lie above
it. Whatever the order inside, a positive that is the i-th from the top of the interval has

    (A + i) / (A + i + B + n)  <=  precision at its score  <=  (A + c) / (A + c + B)

so the sum over the interval's positives is at most c (A + c) / (A + c + B) and at least

    c - sum_i C / (A + C + i)  >=  c - C log(1 + c / (A + C + 1/2)),  C = B + n

(1 / x is convex, so its value at i is at most its mean from i - 1/2 to i + 1/2). The sums over all
intervals, divided by the number of positives, bound the average precision rigorously. The estimate
between them takes positives and negatives as evenly mixed inside an interval, so that
B + n (i - 1/2) / c negatives lie above the i-th positive:

    integral_{1/2}^{c + 1/2} (A + x) / (D + k x) dx,  D = A + B - n / (2 c),  k = 1 + n / c

The ROC-AUC's bounds put all c n pairs of an interval in the wrong, or in the right order.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.metrics.calibration import CLIP, ECE_BINS
from fp4jax.metrics.sweep import THRESHOLDS, Sweep, sweep_of_counts

#: Intervals of equal width; must be a power of two, so that edges are exact in float32.
BINS = 1 << 14
_RANGE = 16.0


class Bounds(NamedTuple):
    """An estimate and what the value that it stands for cannot leave."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The largest possible distance of the estimate from the value."""
        return max(self.high - self.value, self.value - self.low)


def _logit(p):
    return np.log(p) - np.log1p(-np.asarray(p))


_CALIBRATION_EDGES = _logit(np.arange(1, ECE_BINS) / ECE_BINS)
_SWEEP_EDGES = _logit(THRESHOLDS)
_EXTRA = np.concatenate([_CALIBRATION_EDGES, _SWEEP_EDGES])


class Reliability(NamedTuple):
    """Of each of 15 bins (lo, hi] of the probability; NaN where a bin has no pixel."""

    pixels: np.ndarray
    # mean probability, each pixel at its interval's middle
    mean: np.ndarray
    # of positives
    share: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error."""
        gap = np.abs(self.mean - self.share)
        return float(np.nansum(gap * self.pixels) / self.pixels.sum())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of negative (row 0) and positive (row 1) pixels; a pytree, for jit, vmap and scan.

    Counters are uint32: at most 4.29e9 pixels of a class in an interval.

    Example:
        >>> import jax.numpy as jnp
        >>> histogram = Histogram.zeros()
        >>> logits, mask = jnp.array([[-2.0, -1.0, 3.0]]), jnp.array([[0, 1, 1]])
        >>> histogram = histogram.add(logits, mask)
        >>> low, high = histogram.average_precision()[1:]
        >>> low <= 1.0 <= high
        True
    """

    # read from files they are arrays of NumPy
    counts: Array | np.ndarray
    # pixels whose logit is NaN; with any, all results are NaN
    invalid: Array | np.ndarray

    @classmethod
    def zeros(cls, bins: int = BINS) -> "Histogram":
        """No pixels.

        Raises:
            ValueError: if ``bins`` is not a power of two from 2 to 2**20.
        """
        if bins < 2 or bins > 1 << 20 or bins & (bins - 1):
            raise ValueError(f"bins is {bins!r}; give a power of two from 2 to 2**20.")
        shape = (2, bins + len(_EXTRA))
        return cls(jnp.zeros(shape, jnp.uint32), jnp.zeros((), jnp.uint32))

    @property
    def bins(self) -> int:
        """Number of intervals of equal width."""
        return self.counts.shape[-1] - len(_EXTRA)

    def add(
        self,
        logits: Float[Array, "n ..."],
        mask: Shaped[Array, "n ..."],
        weights: Array | None = None,
    ) -> "Histogram":
        """With the pixels of a batch; images of weight 0 are left out, others count once."""
        z = logits.astype(jnp.float32)
        half = self.bins // 2
        # Scaled before it is shifted: a power of two keeps edges, and the sign next to 0, exact.
        place = jnp.clip(jnp.floor(z * np.float32(half / _RANGE)), -half, half - 1)
        # A sum of functions that rise with z tells their pieces apart.
        index = jnp.where(jnp.isnan(z), 0, place).astype(jnp.int32) + half
        for edge in _EXTRA:
            index = index + (z > np.float32(edge)).astype(jnp.int32)
        total = self.counts.shape[-1]
        index = index + jnp.where(mask.astype(jnp.float32) > 0.5, total, 0)
        used = jnp.ones_like(z, bool)
        if weights is not None:
            per_image = (weights.astype(jnp.float32) != 0).reshape(-1, *(1,) * (z.ndim - 1))
            used = jnp.broadcast_to(per_image, z.shape)
        index = jnp.where(used & ~jnp.isnan(z), index, 2 * total)
        counts = (
            jnp.asarray(self.counts)
            .reshape(-1)
            .at[index.reshape(-1)]
            .add(np.uint32(1), mode="drop")
        )
        invalid = self.invalid + jnp.sum(used & jnp.isnan(z), dtype=jnp.uint32)
        return Histogram(counts.reshape(self.counts.shape), invalid)

    def merge(self, other: "Histogram") -> "Histogram":
        """With the pixels of both.

        Raises:
            ValueError: if their intervals differ.
        """
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"{self.bins} and {other.bins} bins; give histograms of equal bins.")
        return Histogram(self.counts + other.counts, self.invalid + other.invalid)

    def average_precision(self) -> Bounds:
        """The area under the precision-recall curve; NaN without positives."""
        n, c = self._best_first()
        total = c.sum()
        if not total:
            return _UNDEFINED
        A, B = np.cumsum(c) - c, np.cumsum(n) - n
        some = c > 0
        sums = precision_sums(n[some], c[some], B[some], A[some])
        return Bounds(*(float(x.sum() / total) for x in sums))

    def roc_auc(self) -> Bounds:
        """The area under the ROC curve; NaN without positives or negatives."""
        n, c = self._best_first()
        pairs = c.sum() * n.sum()
        if not pairs:
            return _UNDEFINED
        below = n.sum() - np.cumsum(n)
        low, tied = _dot(c, below) / pairs, _dot(c, n) / pairs
        return Bounds(float(low + tied / 2), float(low), float(low + tied))

    def reliability(self) -> Reliability:
        """Mean probability and share of positives of each calibration bin."""
        n, c = self._rows()
        _, middle, _ = _probabilities(self.bins)
        place = np.searchsorted(_CALIBRATION_EDGES, _middles(self.bins), "left")
        pixels = np.bincount(place, n + c, ECE_BINS)
        filled = np.where(pixels > 0, pixels, np.nan)
        mean = np.bincount(place, (n + c) * middle, ECE_BINS) / filled
        return Reliability(pixels, mean, np.bincount(place, c, ECE_BINS) / filled)

    def calibration_error(self) -> Bounds:
        """The expected calibration error of 15 bins (lo, hi]."""
        n, c = self._rows()
        pixels = (n + c).sum()
        if not pixels:
            return _UNDEFINED
        low, middle, high = _probabilities(self.bins)
        value = self.reliability().error
        error = _dot(n + c, np.maximum(high - middle, middle - low)) / pixels
        return Bounds(float(value), float(max(value - error, 0)), float(min(value + error, 1)))

    def sweep(self) -> Sweep:
        """F2 over the 19 thresholds of :func:`fp4jax.metrics.threshold_sweep`."""
        n, c = self._rows()
        place = np.searchsorted(_SWEEP_EDGES, _middles(self.bins), "left")
        size = len(THRESHOLDS) + 1
        return sweep_of_counts(
            THRESHOLDS, np.bincount(place, n + c, size), np.bincount(place, c, size)
        )

    def above(self, threshold: float) -> tuple[float, float]:
        """(all pixels, positive pixels) whose probability is above one of ``THRESHOLDS``, exactly.

        Raises:
            ValueError: another threshold.
        """
        at = np.flatnonzero(np.isclose(THRESHOLDS, threshold))
        if len(at) != 1:
            raise ValueError(f"threshold is {threshold}; a histogram knows {THRESHOLDS.tolist()}.")
        n, c = self._rows()
        over = _middles(self.bins) > _SWEEP_EDGES[at[0]]
        return float((n + c)[over].sum()), float(c[over].sum())

    def moments(self) -> dict[str, float]:
        """``logit_mean``, ``logit_std`` and ``prob_entropy``, each pixel at its interval's middle.

        The mean logit is off by at most half a width, 16 / bins.
        """
        count = np.add(*self._rows())
        total = count.sum()
        if not total:
            return dict.fromkeys(("logit_mean", "logit_std", "prob_entropy"), float("nan"))
        z, (_, p, _) = _middles(self.bins), _probabilities(self.bins)
        mean = _dot(count, z) / total
        entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
        return {
            "logit_mean": float(mean),
            "logit_std": float(np.sqrt(_dot(count, (z - mean) ** 2) / total)),
            "prob_entropy": float(_dot(count, entropy) / total),
        }

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Negatives and positives by rising logit, float64; none if a pixel is NaN."""
        rows = np.asarray(self.counts, np.float64)
        return tuple(rows * 0 if int(self.invalid) else rows)  # pyright: ignore

    def _best_first(self) -> tuple[np.ndarray, np.ndarray]:
        n, c = self._rows()
        return n[::-1], c[::-1]


def precision_sums(
    n: np.ndarray, c: np.ndarray, B: np.ndarray, A: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, lower and upper bound of the precisions summed over each interval's positives.

    Divided by the number of positives, their sums over all intervals are the average precision
    and its bounds (formulas at the top of this file). 0 where c is 0.

    Args:
        n: negatives of each interval, whole numbers in float64; any shape, the same for all.
        c: positives.
        B: negatives above the interval.
        A: positives above the interval.
    """
    C, above, pixels = B + n, A + B, np.maximum(c + n, 1)
    low = c - C * np.log1p(c / (A + C + 0.5))
    high = c * (A + c) / np.maximum(above + c, 1)
    # With A - D / k = ((A + 1/2) n - B c) / (c + n).
    slope = ((A + 0.5) * n - B * c) / pixels
    value = c / pixels * (c + slope * np.log1p(pixels / (above + 0.5)))
    return np.clip(value, low, high), low, high


def _dot(a: np.ndarray, b: np.ndarray) -> np.floating:
    """As np.dot, whose last bit depends on the number of BLAS threads, and so on the machine."""
    return (a * b).sum()


_UNDEFINED = Bounds(float("nan"), float("nan"), float("nan"))


@functools.cache
def _edges(bins: int) -> np.ndarray:
    """Edges of all intervals in rising order, the outermost where p is clipped."""
    inner = np.arange(1 - bins // 2, bins // 2) * (2 * _RANGE / bins)
    limit = _logit(1 - CLIP)
    return np.concatenate([[-limit], np.sort(np.concatenate([inner, _EXTRA])), [limit]])


def _middles(bins: int) -> np.ndarray:
    edges = _edges(bins)
    return (edges[:-1] + edges[1:]) / 2


def _probabilities(bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, middle and highest probability of each interval."""
    low, middle, high = (
        1 / (1 + np.exp(-z)) for z in (_edges(bins)[:-1], _middles(bins), _edges(bins)[1:])
    )
    return low, middle, high
