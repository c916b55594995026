"""The BraTS layouts: a folder for each case, named files for each contrast.

BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz   2020 and 2021: _flair _t1 _t1ce _t2 _seg
BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz       2023 and 2024: -t2f -t1n -t1c -t2w -seg
"""

import collections
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fp4jax.data.folders import readable, walk
from fp4jax.data.nifti.case import Case, canonical
from fp4jax.data.nifti.labels import Table
from fp4jax.data.nifti.volume import is_nifti_name, read_volume
from fp4jax.data.problems import refuse

_LOG = logging.getLogger("fp4jax.data")

MODALITIES = ("flair", "t1", "t1c", "t2")
LAYOUTS = ("brats2020", "brats2021", "brats2023", "brats2024")

# Modality -> suffixes of files, the usual one first: those of BraTS, and of TCIA's sets of gliomas
# (UPENN-GBM, UCSF-PDGM, TCGA-GBM, MU-Glioma-Post), whose label values are those of some BraTS.
_SUFFIXES = {
    "underscore": {
        "flair": ("_flair", "_t2f"),
        "t1": ("_t1", "_t1n"),
        "t1c": ("_t1ce", "_t1gd", "_t1c"),
        "t2": ("_t2", "_t2w"),
        "seg": (
            *("_seg", "_segm", "_segmentation", "_tumor_segmentation", "_tumor_mask"),
            *("_tumormask", "_glistrboost_manuallycorrected"),
        ),
    },
    "hyphen": {
        "flair": ("-t2f",),
        "t1": ("-t1n",),
        "t1c": ("-t1c",),
        "t2": ("-t2w",),
        "seg": ("-seg",),
    },
}
_NAME = re.compile(
    r"(?P<case>.+?)(?P<suffix>"
    + "|".join(
        (r"(?:_brain)?" if name != "seg" else "") + suffix
        for style in _SUFFIXES.values()
        for name, suffixes in style.items()
        for suffix in suffixes
    )
    + r")\.nii(\.gz)?",
    re.IGNORECASE,
)
_STYLE = {"brats2020": "underscore", "brats2021": "underscore"}
# Paediatric label maps number their classes in another way, and no year tells them apart.
_OTHER_LABELS = re.compile(r"BraTS-PED-", re.IGNORECASE)
_REMEDY = (
    "Unpack the archive again, or move incomplete cases and copies elsewhere; if the set never had "
    "these files, name the modalities that it has: --modalities flair t1c."
)
_LOOKED_AT = 16  # label maps of a folder, to learn which value is enhancing tumour

Files = dict[tuple[Path, str, str], dict[str, Path]]


def find(
    root: Path,
    layout: str | None,
    modalities: Sequence[str] | None = None,
    table: Table | None = None,
) -> tuple[Case, ...]:
    """All cases below ``root``, sorted by id; none if no file is named as in BraTS.

    Cases without a label map beside others that have one are found too, with a note in the log.

    Args:
        root: any folder above the cases.
        layout: one of ``LAYOUTS``, which says what labels mean; of names in both styles its own are
            taken, else those that are there. None finds out for each folder of cases, by its names
            and by whether 3 or 4 is among the labels, for many sets are named as in one year and
            labelled as in another.
        modalities: the contrasts that every case must have; None means all four.
        table: what labels mean instead.

    Raises:
        ValueError: cases that lack an image; a case that is there twice; paediatric cases, whose
            labels mean something else, without a table.
    """
    files = _files(root)
    if layout is not None:
        style = _STYLE.get(layout, "hyphen")
        own = {key: found for key, found in files.items() if key[2] == style}
        files = own or files
    wanted = tuple(canonical(name) for name in modalities or MODALITIES)
    labels = {key: _label(key, found, files) for key, found in files.items()}
    labelled = {_group(key) for key, label in labels.items() if label is not None}
    layouts = _layouts(root, labels) if layout is None and table is None else {}
    cases, problems, first, bare = [], [], {}, []
    for key, found in sorted(files.items(), key=lambda item: (item[0][1], str(item[0][0]))):
        folder, name, style = key
        case = readable(name)
        suffix = _SUFFIXES[style]
        for modality in wanted:
            if modality not in found:
                usual = suffix.get(modality, (f" {modality}",))[0]
                expected = f"{name}{usual}.nii"
                problems.append(f"{case}: modality {modality} is missing, {folder / expected}(.gz)")
        if labels[key] is None and _group(key) in labelled:
            bare.append(case)
        if case in first:
            problems.append(f"{case}: is there twice, in {first[case]} and {folder}")
        if _OTHER_LABELS.match(case) and table is None and labels[key] is not None:
            problems.append(
                f"{case}: label values of paediatric BraTS differ from the adults'; give its own "
                "table, --labels 'whole_tumour=1,2,3,4 enhancing=1', or describe the folder "
                "by --patterns, --label and --labels"
            )
        first[case] = folder
        images = tuple((one, found[one], None) for one in wanted if one in found)
        year = layout or layouts.get(_group(key)) or _year(root, key)
        place = _place(root, folder, name)
        cases.append(Case(case, year, images, labels[key], table, place=place))
    if problems:
        refuse(root, problems, _REMEDY)
    if bare:
        _LOG.warning(
            "%s: %d of %d cases have no label map: %s%s",
            *(root, len(bare), len(cases), ", ".join(bare[:5]), ", ..." * (len(bare) > 5)),
        )
    return tuple(cases)


def _layouts(root: Path, labels: dict[tuple[Path, str, str], Path | None]) -> dict[Path, str]:
    """Folder of cases -> the layout with its labels, where its names say another one.

    Names with underscores are of years with enhancing tumour 4; a 3 and no 4 there means that the
    labels are those of 2023. The other way round it is not settled: 4 is the resection cavity, too.
    """
    found: dict[Path, str] = {}
    groups: dict[Path, list[Path]] = collections.defaultdict(list)
    for key, label in labels.items():
        if key[2] == "underscore" and label is not None:
            groups[_group(key)].append(label)
    for folder, paths in groups.items():
        for path in sorted(paths)[:_LOOKED_AT]:
            try:
                values = np.rint(read_volume(path).data)
            except ValueError:  # it is reported when it is loaded
                continue
            has = [bool(np.any(values == value)) for value in (3, 4)]
            if any(has):
                if has == [True, False]:
                    found[folder] = "brats2023"
                    _LOG.info("%s: enhancing tumour is 3 in %s, as in BraTS 2023", root, path.name)
                break
    return found


def _place(root: Path, folder: Path, case: str) -> str:
    parts = [readable(part) for part in folder.relative_to(root).parts]
    own = parts and parts[-1].startswith(readable(case))  # UCSF-PDGM-0004_nifti
    return "/".join([*(parts[:-1] if own else parts), readable(case)])


def _files(root: Path) -> Files:
    """(folder, case, style of naming) -> modality -> file, of all files named as in BraTS."""
    files: Files = collections.defaultdict(dict)
    of_suffix = {
        suffix: (name, style)
        for style, suffixes in _SUFFIXES.items()
        for name, several in suffixes.items()
        for suffix in several
    }
    for parent, folders, names in walk(root):
        # a folder named x.nii holds the file
        holders = [name for name in folders if is_nifti_name(name)]
        folders[:] = [name for name in folders if name not in holders]
        for name in sorted([*names, *holders], reverse=True):  # .nii after .nii.gz: it is kept
            match = _NAME.fullmatch(name)
            if match:
                modality, style = of_suffix[match["suffix"].lower().removeprefix("_brain")]
                files[parent, match["case"], style][modality] = parent / name
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
    own = folder.name.startswith(case) or case.startswith(folder.name)
    return folder.parent if own else folder


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
