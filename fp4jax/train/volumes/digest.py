"""digest: whether two folders hold the same cases, without reading all of their voxels."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fp4jax.data.nifti import Case
from fp4jax.data.nifti.volume import find_file

_BLOCKS, _BLOCK = 16, 1 << 16


def digest(
    cases: Iterable[Case],
    modalities: Iterable[str],
    regions: Iterable[str],
    *,
    named: bool = True,
) -> str:
    """SHA-256 of the cases' ids, label tables, and what tells their files apart.

    A compressed file counts with its length and the checksum of its content that gzip keeps at
    the end; any other with its length and 16 blocks of 64 KiB spread over it. Folders, dates and
    the order of the cases do not count.

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
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """What tells a file apart from others, read quickly: its length and a checksum."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if path.name.lower().endswith(".gz") and size > 8:
            # CRC-32 and length of what was compressed.
            file.seek(-8, os.SEEK_END)
            return f"gzip {size} {file.read().hex()}"
        found = hashlib.sha256()
        for i in range(_BLOCKS):
            file.seek(max(size - _BLOCK, 0) * i // (_BLOCKS - 1))
            found.update(file.read(_BLOCK))
    return f"file {size} {found.hexdigest()}"
