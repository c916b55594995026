"""The patients of cases: by names or a pattern, and by images that are there twice."""

import collections
import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from fp4jax.data import patients
from fp4jax.data.nifti.case import Case
from fp4jax.data.nifti.contents import checksum, fingerprint
from fp4jax.data.nifti.volume import find_file


def grouped(cases: Sequence[Case], pattern: str | None = None) -> tuple[Case, ...]:
    """Cases that know their patient (:func:`fp4jax.data.patients.group`).

    Raises:
        ValueError: no regular expression, or one that cases do not match.
    """
    found = patients.group([case.scan for case in cases], pattern)
    return tuple(
        dataclasses.replace(case, person=person) for case, person in zip(cases, found, strict=True)
    )


def joined(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Cases of which those with the same image are of one patient.

    Copies and links under several names would be on both sides of a split. A warning names them;
    they are treated as scans of one patient, the first by name, and all are kept: which of two
    names is right, and whose labels, only their owner knows.

    Images are compared by their length and checksum, not by what a resampling would leave alike.
    """
    own: dict[str, set[str]] = collections.defaultdict(set)
    ids: dict[str, str] = {}
    for case, marks in zip(cases, _marks(cases), strict=True):
        for mark in marks:
            own[mark].add(case.patient)
            ids.setdefault(f"{mark} {case.patient}", case.id)
    same = [(mark, sorted(names)) for mark, names in sorted(own.items()) if len(names) > 1]
    if not same:
        return tuple(cases)
    first = patients.together([case.patient for case in cases], [names for _, names in same])
    shown = {
        " = ".join(sorted(ids[f"{mark} {name}"] for name in names)): None for mark, names in same
    }
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    warnings.warn(
        f"The same image is there under several names: {'; '.join(list(shown)[:5])}{more}. They "
        "are kept together as scans of one patient; remove copies that should not count twice.",
        stacklevel=2,
    )
    return tuple(
        dataclasses.replace(case, person=patients.Patient(first[case.patient], "the same image"))
        if first[case.patient] != case.patient
        else case
        for case in cases
    )


def _marks(cases: Sequence[Case]) -> list[set[str]]:
    """What tells the images of each case apart; files that cannot be read are left to the reader.

    Where some files are compressed and others are not, those are read as a whole: their content
    may be the same.
    """
    every = [{path: None for _, path, _ in case.images} for case in cases]
    found = {path: _mark(path) for paths in every for path in paths}
    packed = any(mark.startswith("gzip") for mark in found.values())
    for path, mark in found.items():
        kind, *rest = mark.split() or [""]
        if kind == "gzip":
            found[path] = rest[-1]  # another level of compression makes no difference
        elif kind == "file" and packed:
            found[path] = checksum(find_file(path))
    return [{found[path] for path in paths if found[path]} for paths in every]


def _mark(path: Path) -> str:
    try:
        file = find_file(path)
        return fingerprint(Path(os.path.realpath(file)))
    except (OSError, ValueError):
        return ""
