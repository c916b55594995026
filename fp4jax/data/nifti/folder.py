"""Any other folder of NIfTI files, described by patterns of file names.

With ``{id}`` in the patterns they are paths below the root, and what ``{id}`` stands for is the
case: ``imagesTr/{id}_0000.nii.gz``. Without it, every folder that has matching files is a case:
``Flair*.nii.gz``.
"""

import collections
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from fp4jax.data.nifti.case import Case, canonical_all
from fp4jax.data.nifti.labels import table_of
from fp4jax.data.nifti.volume import is_nifti_name
from fp4jax.data.problems import refuse

_LABEL, _MASK = "\0label", "\0mask"  # no names of modalities
_REMEDY = "Correct the patterns, or add or move files, so that each pattern matches once per case."


def find(
    root: Path,
    modalities: Mapping[str, str] | None,
    label: str | None = None,
    labels: str | Mapping[str, Collection[int]] | None = None,
    mask: str | None = None,
) -> tuple[Case, ...]:
    """All cases below ``root``, sorted by id.

    Args:
        root: folder above the cases, or of one case.
        modalities: modality -> pattern (``*`` and ``?``) of its file.
        label: pattern of the label map; a case may lack it only if all do.
        labels: what its values mean: a key of ``LABELS``, or region -> values.
        mask: pattern of the brain mask.

    Raises:
        ValueError: cases without a file, or with several, for a pattern.
    """
    if not isinstance(modalities, Mapping) or not modalities:
        raise ValueError(
            f"modalities are {modalities!r}; layout 'folder' needs the pattern of each, such as "
            "{'flair': 'Flair*.nii.gz', 't1c': 'T1c*.nii.gz'}."
        )
    if label is not None and labels is None:
        raise ValueError(
            f"The label maps are {label!r}; say what their values mean: labels='brats2013', "
            "another layout's name, or a table such as {'lesion': {1}}."
        )
    if isinstance(labels, Mapping) and not labels:
        raise ValueError("labels is empty; name a region, such as {'lesion': {1}}.")
    table = None if labels is None else table_of(labels)
    names = canonical_all(tuple(modalities))
    patterns = dict(zip(names, modalities.values(), strict=True))
    patterns |= {name: p for name, p in ((_LABEL, label), (_MASK, mask)) if p is not None}
    by_id = ["{id}" in pattern for pattern in patterns.values()]
    if any(by_id) and not all(by_id):
        raise ValueError(
            f"Some patterns have {{id}} and others do not: {', '.join(patterns.values())}. Use it "
            "in all of them (paths below the root) or in none (names in each case's folder)."
        )
    found = _by_id(root, patterns) if all(by_id) else _by_folder(root, patterns)
    any_label = any(_LABEL in files for files in found.values())
    cases, problems = [], []
    for case, files in found.items():
        for name, pattern in patterns.items():
            paths = files.get(name, [])
            what = {_LABEL: "the label map", _MASK: "the brain mask"}.get(name, f"modality {name}")
            if not paths and (name != _LABEL or any_label):
                problems.append(f"{case}: {what} is missing, no file {pattern}")
            elif len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                problems.append(f"{case}: {what} is there {len(paths)} times, {names}")
        one = {name: paths[0] for name, paths in files.items()}
        images = tuple(
            (name, one[name], None)
            for name in patterns
            if name not in (_LABEL, _MASK) and name in one
        )
        cases.append(Case(case, "folder", images, one.get(_LABEL), table, one.get(_MASK)))
    if not cases:
        problems.append(f"no file matches {', '.join(patterns.values())}")
    if problems:
        refuse(root, problems, _REMEDY)
    return tuple(sorted(cases, key=lambda case: case.id))


def _by_folder(root: Path, patterns: Mapping[str, str]) -> dict[str, dict[str, list[Path]]]:
    found: dict[Path, dict[str, list[Path]]] = {}
    for parent, folders, _ in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not is_nifti_name(f))
        files = {name: _match(Path(parent), pattern) for name, pattern in patterns.items()}
        files = {name: paths for name, paths in files.items() if paths}
        if set(files) - {_LABEL, _MASK}:
            found[Path(parent)] = files
    found = {Path(os.path.abspath(folder)): files for folder, files in found.items()}
    names = collections.Counter(folder.name for folder in found)
    above = Path(os.path.abspath(root))  # links stay as they are
    ids = {
        folder: folder.name
        if names[folder.name] == 1 or folder == above
        else "_".join(folder.relative_to(above).parts)
        for folder in found
    }
    return {ids[folder]: files for folder, files in found.items()}


def _by_id(root: Path, patterns: Mapping[str, str]) -> dict[str, dict[str, list[Path]]]:
    found: dict[str, dict[str, list[Path]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for name, pattern in patterns.items():
        parts = re.split(r"(\{id\}|\*|\?)", pattern)
        if parts.count("{id}") != 1:
            raise ValueError(f"Pattern {pattern!r} has {{id}} more than once; use it once.")
        known = {"{id}": "(?P<id>[^/]+)", "*": "[^/]*", "?": "[^/]"}
        expression = re.compile("".join(known.get(part) or re.escape(part) for part in parts))
        for path in _match(root, pattern.replace("{id}", "*")):
            match = expression.fullmatch(path.relative_to(root).as_posix())
            if match:
                found[match["id"]][name].append(path)
    # A label map without an image is no case.
    images = {name for name in patterns if name not in (_LABEL, _MASK)}
    return {case: dict(found[case]) for case in sorted(found) if images & set(found[case])}


def _match(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if is_nifti_name(path.name))
