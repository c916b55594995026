"""Sizes of paired effects: t interval of the mean, d_z with its interval, equivalence."""

from typing import NamedTuple

import numpy as np

from fp4jax.extras import Extra

with Extra("study"):
    from scipy import special, stats

_NAN = float("nan")
LEVEL = 0.95
#: With which a design should find what it looks for.
POWER = 0.8


class Mean(NamedTuple):
    """An estimated mean with its standard error and degrees of freedom; NaN if unknown."""

    value: float
    error: float
    freedom: float

    @classmethod
    def of(cls, d: np.ndarray) -> "Mean":
        """Of n independent differences: error sd / sqrt(n), n - 1 degrees of freedom.

        Example:
            >>> Mean.of(np.array([1.0, 2.0, 3.0])).freedom
            2
        """
        n = len(d)
        spread = float(d.std(ddof=1)) if n > 1 and np.ptp(d) else 0.0
        error = spread / n**0.5 if n > 1 else _NAN
        return cls(float(d.mean()) if n else _NAN, error, n - 1)

    def interval(self) -> tuple[float, float]:
        """The 95 % t interval, mean -+ t_{0.975, freedom} error."""
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) if self.known else _NAN
        half = quantile * self.error
        return self.value - half, self.value + half

    def columns(self) -> dict[str, float]:
        """As they are named in a table of comparisons."""
        return {"difference": self.value, "error": self.error, "freedom": float(self.freedom)}

    def p(self) -> float:
        """Of Student's two-sided test that the mean is 0; NaN if nothing varies."""
        if not self.varies:
            return _NAN
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def p_equivalence(self, margin: float) -> float:
        """Of two one-sided tests [1] that the mean is not between -margin and margin.

        p = max(P(T > (margin + mean) / error), P(T > (margin - mean) / error)), T with Student's
        distribution. NaN if nothing varies: values that are equal in every pair are no sample.

        [1] D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power
        approach for assessing the equivalence of average bioavailability, J. Pharmacokinet.
        Biopharm. 15 (1987) 657.

        Example:
            >>> round(Mean(0.005, 0.005, 9).p_equivalence(0.02), 4)
            0.0075
        """
        if not self.varies:
            return _NAN
        near = (margin - abs(self.value)) / self.error
        return float(stats.t.sf(near, self.freedom))

    def detectable(self, alpha: float, power: float = POWER) -> float:
        """The true mean that Student's two-sided test at ``alpha`` finds with that power.

        It is error times the noncentrality at which T exceeds t_{1 - alpha / 2, freedom} with
        probability ``power`` (the other tail adds less than 1e-3 of it). It follows from the spread
        that was seen, not from the mean; NaN if nothing varies.

        Example:
            >>> round(Mean(0.0, 0.01, 9).detectable(0.05), 4)
            0.0315
        """
        if not self.varies or not alpha > 0:
            return _NAN
        quantile = float(stats.t.isf(alpha / 2, self.freedom))
        return float(special.nctdtrinc(self.freedom, 1 - power, quantile)) * self.error

    @property
    def known(self) -> bool:
        """Whether there is an error, and so an interval."""
        return self.error == self.error

    @property
    def varies(self) -> bool:
        """Whether there is an error that is not 0."""
        return self.error > 0


def cohens_d_z(mean: Mean) -> tuple[float, float, float]:
    """d_z = mean / sd of n independent differences, and its 95 % interval; NaN if nothing varies.

    sqrt(n) d_z has a noncentral t distribution with noncentrality sqrt(n) times the true d_z; the
    interval holds the values that its quantiles 2.5 and 97.5 % allow [1]. Exact for normal
    differences.

    [1] G. Cumming, S. Finch, A primer on the understanding, use, and calculation of confidence
    intervals that are based on central and noncentral distributions, Educ. Psychol. Meas. 61
    (2001) 532.

    Example:
        >>> [round(x, 2) for x in cohens_d_z(Mean.of(np.array([1.0, 2.0, 3.0, 4.0])))]
        [1.94, 0.15, 3.67]
    """
    if not mean.varies:
        return _NAN, _NAN, _NAN
    root, t = (mean.freedom + 1) ** 0.5, mean.value / mean.error
    tail = (1 - LEVEL) / 2
    low, high = (special.nctdtrinc(mean.freedom, p, t) for p in (1 - tail, tail))
    return t / root, float(low) / root, float(high) / root
