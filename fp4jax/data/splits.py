"""Patient-level splits: hold-out and k-fold, stratified by tumour burden.

The burden of a patient is the share of its slices that are positive; strata are its terciles.
Splitting patients, never slices, keeps neighbouring slices of one tumour on one side.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from fp4jax.data.cohort import Cohort
from fp4jax.extras import Extra

STRATA = 3
HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Split:
    """Patients to train on, to choose the epoch by, and to report; each sorted.

    Raises:
        ValueError: a patient in more than one part.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    name: str = "split"

    def __post_init__(self):
        for part in ("train", "val", "test"):
            object.__setattr__(self, part, tuple(sorted(map(str, getattr(self, part)))))
        every = self.train + self.val + self.test
        twice = sorted({p for p in every if every.count(p) > 1})
        if twice:
            raise ValueError(
                f"Split {self.name!r}: patients {twice[:5]} are in more than one part or twice in "
                "one; every patient may be used once."
            )


def burden_strata(cohort: Cohort) -> dict[str, int]:
    """The stratum 0, 1 or 2 of each patient: the tercile of its share of positive slices.

    Edges are the linear-interpolated quantiles, equal edges merged, bins closed on the right
    (as ``pandas.qcut(..., duplicates="drop")``).
    """
    patients, which = np.unique(cohort.patient_ids, return_inverse=True)
    slices = np.bincount(which, minlength=len(patients))
    burden = np.bincount(which, cohort.positive, minlength=len(patients)) / slices
    edges = np.unique(np.quantile(burden, np.linspace(0, 1, STRATA + 1)))
    strata = np.searchsorted(edges[1:-1], burden, side="left")
    return dict(zip(patients.tolist(), strata.tolist(), strict=True))


def patient_holdout(cohort: Cohort, seed: int = 2026) -> Split:
    """80 % of the patients for training, 10 % each for validation and test.

    Falls back to an unstratified draw where a stratum is too small to be divided.

    Raises:
        ValueError: fewer than 6 patients.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    strata = burden_strata(cohort)
    patients = list(strata)
    if len(patients) < 6:
        raise ValueError(
            f"The cohort has {_counted(patients)}; a hold-out of 80/10/10 % needs at least 6. "
            "If scans of several patients were taken for those of one, say with patient_pattern "
            "which part of a scan's name is the patient."
        )
    train, held_out = _divide(patients, strata, HELD_OUT, seed)
    val, test = _divide(held_out, strata, 0.5, seed)
    return Split(train, val, test, "holdout")


def patient_kfold(
    cohort: Cohort, folds: int = 5, seed: int = 2026, *, cross_fit: bool = False
) -> tuple[Split, ...]:
    """One split per fold, stratified by tumour burden; see :func:`split_folds`."""
    return split_folds(burden_strata(cohort), folds, seed, cross_fit=cross_fit)


def split_folds(
    strata: Mapping[str, int], folds: int = 5, seed: int = 2026, *, cross_fit: bool = False
) -> tuple[Split, ...]:
    """One split per fold; the patients held out by a fold are halved into validation and test.

    Args:
        strata: the stratum of each patient; all alike for no stratification.
        folds: number of folds k; each holds out 1/k of the patients.
        seed: of the folds; fold i is halved with ``seed + i``.
        cross_fit: add to each fold its mirror image, with validation and test exchanged. The
            test parts of the 2k splits then cover every patient exactly once, instead of half.

    Raises:
        ValueError: folds below 2, or too few patients to give every fold two.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    with Extra("study"):
        from sklearn.model_selection import KFold, StratifiedKFold

    patients = np.array(list(strata))
    bins = np.array(list(strata.values()))
    if folds < 2 or 2 * folds > len(patients):
        raise ValueError(
            f"folds is {folds} for {_counted(patients)}; a fold holds out a validation and a "
            f"test patient at least, so 2 to {len(patients) // 2} folds are possible."
        )
    stratified = np.bincount(bins).max() >= folds
    kind = StratifiedKFold if stratified else KFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    splits = []
    with warnings.catch_warnings():
        # A stratum with fewer patients than folds is spread as far as it goes.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = list(splitter.split(patients, bins))
    for i, (train, held_out) in enumerate(parts):
        val, test = _divide(patients[held_out].tolist(), strata, 0.5, seed + i)
        rest = tuple(patients[train].tolist())
        splits.append(Split(rest, val, test, f"fold{i}"))
        if cross_fit:
            splits.append(Split(rest, test, val, f"fold{i}_swapped"))
    return tuple(splits)


def _counted(patients: Sequence[str] | np.ndarray) -> str:
    return f"{len(patients)} patient{'s' * (len(patients) != 1)}"


def _divide(
    patients: Sequence[str], strata: Mapping[str, int], share: float, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The patients without and with the given share, stratified if every stratum allows it."""
    with Extra("study"):
        from sklearn.model_selection import train_test_split

    bins = np.array([strata[p] for p in patients])
    sizes = np.unique(bins, return_counts=True)[1]
    taken = int(np.ceil(share * len(patients)))
    possible = sizes.min() >= 2 and len(sizes) <= min(taken, len(patients) - taken)
    first, second = train_test_split(
        patients, test_size=share, random_state=seed, stratify=bins if possible else None
    )
    return tuple(first), tuple(second)
