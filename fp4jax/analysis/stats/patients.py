"""Hierarchical bootstrap of the test AUPRC: other seeds or folds, and other patients.

A t interval over seeds leaves out what is usually larger: that other patients had been tested.
Here each resample draws as many test sets (splits) as there are, with replacement, as many seeds as
each has, and as many patients; a run's AUPRC is that of its drawn patients' pixels together, and
the resample's the mean over its drawn runs. So the estimate is the mean over seeds, then over
splits, that :func:`fp4jax.analysis.stats.summary` gives, up to the intervals of the histograms.
(The scores of several runs are not put into one curve: a threshold means something else in each.)

Runs that tested the same patients (the seeds of a split), or some of them (other holdouts), share
the draw of patients: seeds and patients are crossed, and drawing patients for every run alone would
average away that they are few. This is the pigeonhole bootstrap [1]; with the folds' different
patients it is the usual hierarchical one [2], which errs on the wide side. Percentile intervals of
95 %; with p patients in one test set they are narrower than they should be by about
sqrt(1 - 1 / p).

[1] A. B. Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1 (2007) 386.
[2] A. C. Davison, D. V. Hinkley, Bootstrap Methods and their Application (1997), 3.8; V. Saravanan,
G. J. Berman, S. J. Sober, Application of the hierarchical bootstrap to multi-level data in
neuroscience, Neurons Behav. Data Anal. Theory 3 (2020).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fp4jax.analysis.stats.draws import check_resamples, drawn, drawn_seeds
from fp4jax.metrics import Histogram
from fp4jax.metrics.histogram import precision_sums

#: Intervals that are worked on at a time: arrays that stay in the cache take a fifth of the time.
_CHUNK = 1 << 15


class Interval(NamedTuple):
    """An estimate and its 95 % bootstrap interval."""

    estimate: float
    ci_low: float
    ci_high: float


def patient_bootstrap(
    scores: Sequence[dict[str, Histogram]], resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean AUPRC over the runs of a label, with an interval for other runs and patients.

    Args:
        scores: for each run the histogram of each test patient, as
            :meth:`fp4jax.analysis.results.RunResult.scores` reads them.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        NaN if no patient of a run has a positive pixel. Draws of patients without any leave their
        run out of their resample.

    Raises:
        ValueError: if there is no run, or one without patients, with histograms of unequal bins or
            with NaN among its scores.

    Example:
        >>> import jax.numpy as jnp
        >>> def patient(*logits):
        ...     mask = jnp.arange(len(logits))[None] < 1
        ...     return Histogram.zeros(256).add(jnp.array([logits]), mask)
        >>> run = {"a": patient(2.0, -1.0, -2.0), "b": patient(1.0, 3.0, -1.0)}
        >>> found = patient_bootstrap([run, run])
        >>> print([round(x, 2) for x in found])
        [0.58, 0.41, 1.0]
    """
    return Resampled(scores, resamples, seed).interval()


def patient_bootstrap_difference(
    a: Sequence[dict[str, Histogram]],
    b: Sequence[dict[str, Histogram]],
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean difference AUPRC(a) - AUPRC(b) of two labels; each draw is the same for both.

    Args:
        a: scores of a label's runs, as for :func:`patient_bootstrap`.
        b: scores of the other label's runs: in the same order of (split, seed), with the same
            patients.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: as :func:`patient_bootstrap`, or if the runs or their patients differ.
    """
    return Resampled(a, resamples, seed).minus(Resampled(b, resamples, seed))


class Resampled:
    """The draws of a label, for its own interval and for differences to several other labels.

    Args:
        scores: as for :func:`patient_bootstrap`.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: as :func:`patient_bootstrap`.
    """

    def __init__(
        self, scores: Sequence[dict[str, Histogram]], resamples: int = 2000, seed: int = 0
    ):
        runs = _matrices(scores)
        check_resamples(resamples)
        self._drawn = resamples, seed
        self._patients = [run.patients for run in runs]
        self._estimates = np.array([run.auprc(np.ones(len(run.patients))) for run in runs])
        self._often, self._values = _draws(runs, resamples, seed)

    def interval(self) -> Interval:
        """Of the mean AUPRC."""
        return self._of(self._estimates, self._values)

    def minus(self, other: "Resampled") -> Interval:
        """Of the mean difference of this label to another one.

        Raises:
            ValueError: the runs or their patients differ, or the draws.
        """
        if self._patients != other._patients or self._drawn != other._drawn:
            raise ValueError(
                f"{len(self._patients)} and {len(other._patients)} runs do not test the same "
                "patients one by one; give both labels' runs in the same order of (split, seed)."
            )
        return self._of(self._estimates - other._estimates, self._values - other._values)

    def _of(self, estimates: np.ndarray, values: np.ndarray) -> Interval:
        """Means over the seeds of each split, then over splits."""
        splits = _splits(self._patients)
        estimate = float(np.mean([estimates[places].mean() for places in splits]))
        return _interval(estimate, self._often, values)


class _Run(NamedTuple):
    """Counts of a run's patients where it has positives; linear in the patients drawn."""

    # sorted
    patients: tuple[str, ...]
    # (patients, 4 k): negatives and positives of each interval, and those above it
    counts: np.ndarray

    def auprc(self, weights: np.ndarray) -> np.ndarray:
        """Of each row of weights (..., patients): how often each patient counts."""
        drawn = weights @ self.counts
        k = drawn.shape[-1] // 4
        n, c, B, A = (drawn[..., i * k : (i + 1) * k] for i in range(4))
        total = c.sum(-1)
        found = precision_sums(n, c, B, A)[0].sum(-1)
        return np.divide(found, total, out=np.full_like(total, np.nan), where=total > 0)


def _matrices(scores: Sequence[dict[str, Histogram]]) -> list[_Run]:
    if not scores:
        raise ValueError("there is no run; give the scores of at least one.")
    runs = []
    for place, run in enumerate(scores):
        patients = tuple(sorted(run))
        if not patients:
            raise ValueError(f"run {place} has no patients; leave it out.")
        shapes = {np.shape(run[patient].counts) for patient in patients}
        if len(shapes) > 1:
            raise ValueError(f"run {place} has histograms of unequal bins: {sorted(shapes)}.")
        broken = [patient for patient in patients if int(run[patient].invalid)]
        if broken:
            raise ValueError(
                f"run {place} has NaN among the scores of {', '.join(broken)}: it has diverged; "
                "leave it out."
            )
        # Best scores first.
        counts = np.array([np.asarray(run[p].counts) for p in patients], np.float64)[..., ::-1]
        above = np.cumsum(counts, -1) - counts
        some = counts[:, 1].any(0)
        parts = (counts[:, 0], counts[:, 1], above[:, 0], above[:, 1])
        runs.append(_Run(patients, np.concatenate([part[:, some] for part in parts], -1)))
    return runs


def _splits(patients: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
    """Places of the runs that tested the same patients."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place, own in enumerate(patients):
        found.setdefault(own, []).append(place)
    return [np.array(places) for places in found.values()]


def _often(generator: np.random.Generator, runs: Sequence[_Run], resamples: int) -> np.ndarray:
    """The weight of each run (resamples, runs): splits are drawn, and for each its seeds."""
    splits = _splits([run.patients for run in runs])
    weights = np.zeros((resamples, len(runs)))
    for places, own in zip(
        splits, drawn_seeds(generator, list(map(len, splits)), resamples), strict=True
    ):
        weights[:, places] = own
    return weights


def _draws(runs: Sequence[_Run], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The weight of each run (resamples, runs), and its AUPRC; NaN where that is not defined."""
    generator = np.random.default_rng(seed)
    often = _often(generator, runs, resamples)
    weights = _patients_drawn(generator, runs, resamples)
    values = np.full(often.shape, np.nan)
    for place, run in enumerate(runs):
        for rows in _chunks(np.flatnonzero(often[:, place]), run.counts.shape[-1]):
            values[rows, place] = run.auprc(weights[run.patients][rows])
    return often, values


def _patients_drawn(
    generator: np.random.Generator, runs: Sequence[_Run], resamples: int
) -> dict[tuple[str, ...], np.ndarray]:
    """How often each patient is drawn (resamples, patients), by test set.

    Test sets that overlap, as those of several holdouts do, share the draws of all their patients:
    a patient is one, however often it is tested.
    """
    pools: list[set[str]] = []
    for run in runs:
        own = set(run.patients)
        touched = [pool for pool in pools if pool & own]
        place = pools.index(touched[0]) if touched else len(pools)
        pools = [pool for pool in pools if pool not in touched]
        pools.insert(place, own.union(*touched))
    weights = {}
    for pool in pools:
        names = sorted(pool)
        often = drawn(generator, len(names), resamples)
        for run in runs:
            if run.patients[0] in pool and run.patients not in weights:
                weights[run.patients] = often[:, np.searchsorted(names, run.patients)]
    return weights


def _chunks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    size = max(1, _CHUNK // max(1, width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _interval(estimate: float, often: np.ndarray, values: np.ndarray) -> Interval:
    defined = ~np.isnan(values)
    counted = (often * defined).sum(-1)
    total = (often * np.where(defined, values, 0)).sum(-1)
    means = total[counted > 0] / counted[counted > 0]
    if np.isnan(estimate) or not len(means):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(estimate, float(low), float(high))
