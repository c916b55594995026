"""The BraTS layouts: a folder for each case, named files for each contrast.

BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz   2020 and 2021: _flair _t1 _t1ce _t2 _seg
BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz       2023 and 2024: -t2f -t1n -t1c -t2w -seg
"""

import collections
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fp4jax.data.nifti.case import Case, canonical
from fp4jax.data.nifti.volume import is_nifti_name
from fp4jax.data.problems import refuse

MODALITIES = ("flair", "t1", "t1c", "t2")
LAYOUTS = ("brats2020", "brats2021", "brats2023", "brats2024")

_SUFFIXES = {
    "underscore": {"flair": "_flair", "t1": "_t1", "t1c": "_t1ce", "t2": "_t2", "seg": "_seg"},
    "hyphen": {"flair": "-t2f", "t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "seg": "-seg"},
}
_NAME = re.compile(
    r"(?P<case>.+)(?P<suffix>"
    + "|".join(suffix for style in _SUFFIXES.values() for suffix in style.values())
    + r")\.nii(\.gz)?",
    re.IGNORECASE,
)
_STYLE = {"brats2020": "underscore", "brats2021": "underscore"}
# Paediatric label maps number their classes in another way, and no year tells them apart.
_OTHER_LABELS = re.compile(r"BraTS-PED-", re.IGNORECASE)
_REMEDY = (
    "Unpack the archive again, or move incomplete cases elsewhere; if the set never had these "
    "files, name the modalities that it has: modalities=('flair', 't1c')."
)

Files = dict[tuple[Path, str, str], dict[str, Path]]


def find(
    root: Path, layout: str | None, modalities: Sequence[str] | None = None
) -> tuple[Case, ...]:
    """All cases below ``root``, sorted by id; none if no file is named as in BraTS.

    Args:
        root: any folder above the cases.
        layout: one of ``LAYOUTS``; None finds out for each case.
        modalities: the contrasts that every case must have; None means all four.

    Raises:
        ValueError: cases that lack an image, or a label map that cases beside them have; a case
            that is there twice; paediatric cases, whose labels mean something else.
    """
    files = _files(root)
    if layout is not None:
        style = _STYLE.get(layout, "hyphen")
        files = {key: found for key, found in files.items() if key[2] == style}
    wanted = tuple(canonical(name) for name in modalities or MODALITIES)
    labels = {key: _label(key, found, files) for key, found in files.items()}
    labelled = {_group(key) for key, label in labels.items() if label is not None}
    cases, problems, first = [], [], {}
    for key, found in sorted(files.items(), key=lambda item: (item[0][1], str(item[0][0]))):
        folder, case, style = key
        suffix = _SUFFIXES[style]
        for name in wanted:
            if name not in found:
                expected = f"{case}{suffix[name]}.nii" if name in suffix else name
                problems.append(f"{case}: modality {name} is missing, {folder / expected}(.gz)")
        if labels[key] is None and _group(key) in labelled:
            problems.append(
                f"{case}: the label map is missing, {folder / (case + suffix['seg'])}.nii(.gz), "
                "though other cases beside it have one"
            )
        if case in first:
            problems.append(f"{case}: is there twice, in {first[case]} and {folder}")
        if _OTHER_LABELS.match(case):
            problems.append(
                f"{case}: label values of paediatric BraTS differ from the adults'; read it with "
                "layout='folder' and its own table as labels"
            )
        first[case] = folder
        images = tuple((name, found[name], None) for name in wanted if name in found)
        cases.append(Case(case, layout or _year(root, key), images, labels[key]))
    if problems:
        refuse(root, problems, _REMEDY)
    return tuple(cases)


def _files(root: Path) -> Files:
    """(folder, case, style of naming) -> modality -> file, of all files named as in BraTS."""
    files: Files = collections.defaultdict(dict)
    of_suffix = {
        suffix: (name, style)
        for style, suffixes in _SUFFIXES.items()
        for name, suffix in suffixes.items()
    }
    for parent, folders, names in os.walk(root, followlinks=True):
        # a folder named x.nii holds the file
        holders = [name for name in folders if is_nifti_name(name)]
        folders[:] = sorted(f for f in folders if f not in holders and not _is_hidden(f))
        for name in sorted([*names, *holders], reverse=True):  # .nii after .nii.gz: it is kept
            match = _NAME.fullmatch(name)
            if match and not _is_hidden(name):
                modality, style = of_suffix[match["suffix"].lower()]
                files[Path(parent), match["case"], style][modality] = Path(parent, name)
    return {key: found for key, found in files.items() if set(found) != {"seg"}}


def _label(key: tuple[Path, str, str], found: dict[str, Path], files: Files) -> Path | None:
    if "seg" in found:
        return found["seg"]
    # BraTS20_Training_355 has its label map under its old name, W39_1998.09.19_Segm.nii.
    folder = key[0]
    if sum(other[0] == folder for other in files) > 1:
        return None
    others = [
        path
        for path in sorted(folder.iterdir())
        if "seg" in path.name.lower() and is_nifti_name(path.name)
    ]
    return others[0] if len(others) == 1 else None


def _group(key: tuple[Path, str, str]) -> Path:
    """The folder of the cases that are trained on or validated with together."""
    folder, case, _ = key
    return folder.parent if folder.name == case else folder


def _year(root: Path, key: tuple[Path, str, str]) -> str:
    """The layout by the case's name and, where names are alike, by the folders above it."""
    folder, case, style = key
    if style == "underscore":
        return "brats2021" if case.lower().startswith("brats2021") else "brats2020"
    for part in reversed((root.resolve().name, *folder.relative_to(root).parts)):
        year = re.search(r"20(23|24)", part)
        if year and part != case:
            return f"brats20{year[1]}"
    return "brats2023"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
