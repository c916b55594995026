"""Any other folder of NIfTI files, described by patterns of file names.

With ``{id}`` in the patterns they are paths below the root, and what ``{id}`` stands for is the
case: ``imagesTr/{id}_0000.nii.gz``, ``sub-{id}/anat/sub-{id}_FLAIR.nii.gz``. Without it, every
folder that has matching files is a case: ``Flair*.nii.gz``.
"""

import collections
import fnmatch
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from fp4jax.data.folders import is_clutter, readable, walk
from fp4jax.data.nifti.case import Case, canonical_all
from fp4jax.data.nifti.labels import given
from fp4jax.data.nifti.volume import is_nifti_name
from fp4jax.data.problems import refuse
from fp4jax.data.scan_names import is_examination

_LABEL, _MASK = "\0label", "\0mask"  # no names of modalities
_REMEDY = (
    "Correct the patterns, or add or move files, so that each pattern matches once per case. Where "
    "a folder has the files of several cases, {id} stands for a case: '{id}_flair.nii.gz'."
)
_LOG = logging.getLogger("fp4jax.data")


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
        label: pattern of the label map; cases that lack it have none, with a note in the log.
        labels: what its values mean: a key of ``LABELS``, or region -> values.
        mask: pattern of the brain mask.

    Raises:
        ValueError: cases without a file, or with several, for a pattern.
    """
    if not isinstance(modalities, Mapping) or not modalities:
        raise ValueError(
            f"modalities are {modalities!r}; describe the folder by the pattern of each, "
            "--patterns flair 'Flair*.nii.gz' t1c 'T1c*.nii.gz'."
        )
    if label is not None and labels is None:
        raise ValueError(
            f"The label maps are {label!r}; say what their values mean: --labels brats2013, "
            "another layout's name, or a table such as --labels lesion=1."
        )
    table = given(labels)
    names = canonical_all(tuple(modalities))
    patterns = dict(zip(names, modalities.values(), strict=True))
    patterns |= {name: p for name, p in ((_LABEL, label), (_MASK, mask)) if p is not None}
    for pattern in patterns.values():
        if not pattern.strip() or pattern.startswith(("/", "~")) or "**" in pattern:
            raise ValueError(
                f"Pattern {pattern!r} is no file's name or path below the root; give one such as "
                "'Flair*.nii.gz' or 'imagesTr/{id}_0000.nii.gz'."
            )
    by_id = ["{id}" in pattern for pattern in patterns.values()]
    if any(by_id) and not all(by_id):
        raise ValueError(
            f"Some patterns have {{id}} and others do not: {', '.join(patterns.values())}. Use it "
            "in all of them (paths below the root) or in none (names in each case's folder)."
        )
    found = _by_id(root, patterns) if all(by_id) else _by_folder(root, patterns)
    any_label = any(_LABEL in files for _, files in found.values())
    cases, problems, bare = [], [], []
    for case, (place, files) in found.items():
        for name, pattern in patterns.items():
            paths = files.get(name, [])
            what = {_LABEL: "the label map", _MASK: "the brain mask"}.get(name, f"modality {name}")
            if not paths and name == _LABEL:
                bare.append(case)
            elif not paths:
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
        cases.append(Case(case, "folder", images, one.get(_LABEL), table, one.get(_MASK), place))
    if not cases:
        problems.append(f"no file matches {', '.join(patterns.values())}{there_are(root)}")
    if problems:
        refuse(root, problems, _REMEDY)
    if bare and any_label:
        _LOG.warning(
            "%s: %d of %d cases have no label map %s: %s%s",
            *(root, len(bare), len(cases), label, ", ".join(bare[:5]), ", ..." * (len(bare) > 5)),
        )
    return tuple(sorted(cases, key=lambda case: case.id))


Found = dict[str, tuple[str, dict[str, list[Path]]]]


def _by_folder(root: Path, patterns: Mapping[str, str]) -> Found:
    """Case -> its place below the root, and the files of each pattern."""
    found: dict[Path, dict[str, list[Path]]] = {}
    for parent, folders, _ in walk(root):
        folders[:] = [name for name in folders if not is_nifti_name(name)]
        files = {name: _match(parent, pattern) for name, pattern in patterns.items()}
        files = {name: paths for name, paths in files.items() if paths}
        if set(files) - {_LABEL, _MASK}:
            found[parent] = files
    found = {Path(os.path.abspath(folder)): files for folder, files in found.items()}
    names = collections.Counter(readable(folder.name) for folder in found)
    above = Path(os.path.abspath(root))  # links stay as they are
    cases: Found = {}
    for folder, files in found.items():
        parts = [readable(part) for part in folder.relative_to(above).parts]
        name = readable(folder.name)
        # A date alone names nobody, and not the same when more patients come.
        alone = names[name] == 1 and not is_examination(name)
        case = name if alone or folder == above else "_".join(parts)
        while case in cases:  # a_b/c and a/b_c
            case += "_"
        cases[case] = "/".join(parts), files
    return cases


def _by_id(root: Path, patterns: Mapping[str, str]) -> Found:
    """As :func:`_by_folder`; what ``{id}`` stands for is the case."""
    found: dict[str, dict[str, list[Path]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for name, pattern in patterns.items():
        first, *rest = pattern.split("{id}")
        expression = _expression(first) + "(?P<id>[^/]+)" + "(?P=id)".join(map(_expression, rest))
        compiled = re.compile(expression, re.IGNORECASE)
        for path in _match(root, pattern.replace("{id}", "*")):
            match = compiled.fullmatch(path.relative_to(root).as_posix())
            if match:
                found[readable(match["id"])][name].append(path)
    # A label map without an image is no case.
    images = {name for name in patterns if name not in (_LABEL, _MASK)}
    return {case: ("", dict(found[case])) for case in sorted(found) if images & set(found[case])}


def _match(folder: Path, pattern: str) -> list[Path]:
    """The NIfTI files that a pattern means; in any case of letters if there are none in its own."""
    first, *rest = pattern.split("/")
    if first in ("", ".", ".."):
        here = [folder.parent if first == ".." else folder]
        return [path for one in here for path in _match(one, "/".join(rest))] if rest else []
    try:
        names = [name for name in sorted(os.listdir(folder)) if not is_clutter(name)]
    except OSError:  # no folder; one that may not be read is refused by walk
        return []
    matching = [name for name in names if _fits(name, first)] or [
        name for name in names if _fits(name.lower(), first.lower())
    ]
    paths = [folder / name for name in matching]
    if rest:
        return [path for one in paths if one.is_dir() for path in _match(one, "/".join(rest))]
    return [path for path in paths if is_nifti_name(path.name)]


def _fits(name: str, pattern: str) -> bool:
    return re.fullmatch(_expression(readable(pattern)), readable(name)) is not None


def _expression(pattern: str) -> str:
    """A regular expression for ``*``, ``?`` and ``[...]`` within a file's name."""
    expression = fnmatch.translate(pattern)
    return expression.removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")


def there_are(root: Path) -> str:
    """The names of some NIfTI files that are there, to correct patterns by."""
    some = [
        (folder / name).relative_to(root).as_posix()
        for folder, _, names in walk(root)
        for name in names
        if is_nifti_name(name)
    ]
    return f"; there are {', '.join(some[:3])}{', ...' * (len(some) > 3)}" if some else ""
