"""digest: whether two folders hold the same cases, without reading all of their voxels."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from fp4jax.data.nifti import Case
from fp4jax.data.nifti.contents import fingerprint
from fp4jax.data.nifti.volume import find_file


def digest(
    cases: Iterable[Case],
    modalities: Iterable[str],
    regions: Iterable[str],
    *,
    named: bool = True,
) -> str:
    """SHA-256 of the cases' ids, label tables, and what tells their files apart.

    Files count by :func:`fp4jax.data.nifti.contents.fingerprint`. Folders, dates and the order of
    the cases do not count.

    Args:
        cases: in any order.
        modalities: the images that count.
        regions: what the label maps stand for.
        named: whether the cases' ids count, too.

    Raises:
        OSError: a file that cannot be read.
    """
    names, regions = tuple(modalities), tuple(regions)
    record = []
    for case in sorted(cases, key=lambda case: case.id):
        files = [(name, *case.image(name)) for name in names]
        rows: list[tuple[Any, ...]] = [
            (name, index, fingerprint(find_file(path))) for name, path, index in files
        ]
        if case.label is not None:
            table = {name: sorted(map(int, case.table[name])) for name in regions}
            rows.append(("labels", table, fingerprint(find_file(case.label))))
        if case.mask is not None:
            rows.append(("mask", fingerprint(find_file(case.mask))))
        record.append((case.id if named else "", rows))
    return _short(record, 64)


def image_digests(cases: Iterable[Case], modalities: Iterable[str]) -> list[str]:
    """What tells each image of some cases apart, in ten digits, sorted.

    Raises:
        OSError: a file that cannot be read.
    """
    names = tuple(modalities)
    files = {case.image(name) for case in cases for name in names}
    return sorted({_short([index, fingerprint(find_file(path))], 10) for path, index in files})


def _short(record: Any, digits: int) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:digits]
