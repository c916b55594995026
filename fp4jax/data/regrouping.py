"""Cohorts whose slices are given to other patients: by a pattern, or because images come twice."""

import collections
import dataclasses
import hashlib
import warnings
from collections.abc import Mapping

import numpy as np

from fp4jax.data import patients
from fp4jax.data.cohort import Cohort


def by_pattern(cohort: Cohort, pattern: str) -> Cohort:
    """A cohort whose patients are what a regular expression finds in their ids.

    Raises:
        ValueError: no regular expression, or one that ids do not match.

    Example:
        >>> images = np.zeros((2, 4, 4, 1), np.uint8)
        >>> index = np.array([1, 1], np.int32)
        >>> ids = np.array(["p1_a", "p1_b"])
        >>> cohort = Cohort(images, images[..., 0], ids, index, "tiny", ("flair",))
        >>> by_pattern(cohort, "(p[0-9])").patients
        ('p1',)
    """
    found = patients.group([patients.Scan(name) for name in cohort.patients], pattern)
    names = {old: new.id for old, new in zip(cohort.patients, found, strict=True)}
    return renamed(cohort, names)


def renamed(cohort: Cohort, names: Mapping[str, str]) -> Cohort:
    """A cohort whose patients have other names; several may have the same.

    The slices of a patient's further scans count on from the scan before, scans in the order of
    their old names.
    """
    if all(old == new for old, new in names.items()):
        return cohort
    old = cohort.patient_ids.tolist()
    first: dict[str, int] = {}
    ends: dict[str, int] = collections.defaultdict(int)
    for scan in cohort.patients:
        own = cohort.slice_index[cohort.patient_ids == scan]
        first[scan] = ends[names[scan]]
        ends[names[scan]] += max(int(own.max(initial=0)), 0) + 1
    scans = cohort.patient_ids if cohort.scan_ids is None else cohort.scan_ids
    return dataclasses.replace(
        cohort,
        scan_ids=scans,
        patient_ids=np.array([names[scan] for scan in old], np.str_),
        slice_index=cohort.slice_index + np.array([first[scan] for scan in old], np.int32),
    )


def joined(cohort: Cohort) -> Cohort:
    """A cohort in which patients that share an image are one.

    Copies and links under several names would be on both sides of a split. A warning names them;
    all slices are kept: which of two names is right, and whose masks, only their owner knows.
    Images of one grey level are in many patients, and do not count.
    """
    own: dict[bytes, set[str]] = collections.defaultdict(set)
    for patient, image in zip(cohort.patient_ids.tolist(), cohort.images, strict=True):
        pixels = np.ascontiguousarray(image)
        if pixels.min() != pixels.max():
            own[hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()].add(patient)
    same = {tuple(sorted(names)): None for names in own.values() if len(names) > 1}
    if not same:
        return cohort
    shown = [" = ".join(names) for names in sorted(same)]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    warnings.warn(
        f"The same images are there under several names: {'; '.join(shown[:5])}{more}. They are "
        "kept together as one patient; remove copies that should not count twice.",
        stacklevel=2,
    )
    return renamed(cohort, patients.together(cohort.patients, list(same)))
