"""The patients of cases: by names or a pattern, and by images that are there twice."""

import collections
import dataclasses
import hashlib
import lzma
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from fp4jax.data import patients
from fp4jax.data.nifti.case import Case
from fp4jax.data.nifti.contents import checksum, content, fingerprint
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

    Images are compared by their bytes, uncompressed: first by length and checksum, those that agree
    as a whole.
    """
    files: dict[str, dict[Path, set[str]]] = collections.defaultdict(dict)
    for case, marks in zip(cases, _marks(cases), strict=True):
        for path, mark in marks.items():
            files[mark].setdefault(path, set()).add(case.patient)
    same, shown = [], []
    for found in files.values():
        if len(set().union(*found.values())) > 1:
            for paths in _alike(list(found)):
                names = sorted(set().union(*(found[path] for path in paths)))
                if len(names) > 1:
                    same.append(names)
                    shown.append(sorted({c.id for c in cases if set(paths) & _images(c)}))
    if not same:
        return tuple(cases)
    first = patients.together([case.patient for case in cases], same)
    texts = sorted({" = ".join(ids) for ids in shown})
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    warnings.warn(
        f"The same image is there under several names: {'; '.join(texts[:5])}{more}. They are "
        "kept together as scans of one patient; remove copies that should not count twice.",
        stacklevel=2,
    )
    return tuple(
        dataclasses.replace(case, person=patients.Patient(first[case.patient], "the same image"))
        if first[case.patient] != case.patient
        else case
        for case in cases
    )


def _alike(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of files with the same content; those that cannot be read are left to the reader."""
    groups: dict[bytes, list[Path]] = collections.defaultdict(list)
    for path in paths:
        try:
            groups[hashlib.sha256(content(find_file(path))).digest()].append(path)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
            continue
    return list(groups.values())


def _images(case: Case) -> set[Path]:
    return {path for _, path, _ in case.images}


def _marks(cases: Sequence[Case]) -> list[dict[Path, str]]:
    """Image -> what tells it apart, of each case, for those that can be read.

    Where some files are compressed and others are not, those are read as a whole: their content
    may be the same.
    """
    every = [_images(case) for case in cases]
    found = {path: _mark(path) for paths in every for path in paths}
    packed = any(mark.startswith("gzip") for mark in found.values())
    for path, mark in found.items():
        kind, *rest = mark.split() or [""]
        if kind == "gzip":
            found[path] = rest[-1]  # another level of compression makes no difference
        elif kind == "file" and packed:
            found[path] = checksum(find_file(path))
    return [{path: found[path] for path in paths if found[path]} for paths in every]


def _mark(path: Path) -> str:
    try:
        file = find_file(path)
        return fingerprint(Path(os.path.realpath(file)))
    except (OSError, ValueError):
        return ""
