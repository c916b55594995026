"""The layout of the Medical Segmentation Decathlon: a ``dataset.json`` that lists all files.

    Task01_BrainTumour/dataset.json
    Task01_BrainTumour/imagesTr/BRATS_001.nii.gz    4-D where there are several modalities
    Task01_BrainTumour/labelsTr/BRATS_001.nii.gz

Only what ``dataset.json`` names is read, so that the ``._*.nii.gz`` files in the archives are not.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from fp4jax.data.nifti.case import Case, canonical
from fp4jax.data.nifti.labels import LABELS, Table
from fp4jax.data.problems import refuse

_REMEDY = "Unpack the archive again, or correct dataset.json."


def find(root: Path, modalities: Sequence[str] | None = None) -> tuple[Case, ...]:
    """The cases of a task: training (with labels), then test; none without a ``dataset.json``.

    Args:
        root: the folder with ``dataset.json``, or its parent.
        modalities: those that are wanted; None means all that ``dataset.json`` names.

    Raises:
        ValueError: an unusable ``dataset.json``, or files that it names and that do not exist.
    """
    file = _file(root)
    if file is None:
        return ()
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        names = {int(index): canonical(name) for index, name in record["modality"].items()}
        labels = {int(value): str(name) for value, name in record["labels"].items()}
        entries = [(entry["image"], entry["label"]) for entry in record["training"]]
        entries += [
            (entry if isinstance(entry, str) else entry["image"], None)
            for entry in record.get("test", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no dataset.json of the Decathlon ({type(error).__name__}: {error}): "
            f"modality, labels and training are needed. {_REMEDY}"
        ) from error
    unknown = sorted({canonical(name) for name in modalities or ()} - set(names.values()))
    if unknown:
        raise ValueError(
            f"{file} has no modality {', '.join(unknown)}; it has {', '.join(names.values())}."
        )
    wanted = [canonical(name) for name in modalities or names.values()]
    channel = {name: index for index, name in names.items()}
    problems, cases, table = [], [], _table(labels)
    for image, label in entries:
        case, path = _stem(image), _path(file.parent, image)
        label_path = None if label is None else _path(file.parent, label)
        for what, needed in (("image", path), ("label map", label_path)):
            if needed is not None and not needed.exists():
                problems.append(f"{case}: its {what} {needed} is missing")
        images = tuple((name, path, channel[name] if len(names) > 1 else None) for name in wanted)
        cases.append(Case(case, "msd", images, label_path, labels=table))
    if not entries:
        problems.append("dataset.json names no cases")
    if problems:
        refuse(file.parent, problems, _REMEDY)
    return tuple(cases)


def _file(root: Path) -> Path | None:
    found = [
        path
        for path in (root / "dataset.json", *sorted(root.glob("*/dataset.json")))
        if path.is_file()
    ]
    if len(found) > 1 and found[0].parent != root:
        raise ValueError(
            f"{root} has several data sets: {', '.join(path.parent.name for path in found)}. Give "
            "the folder of one of them."
        )
    return found[0] if found else None


def _table(labels: dict[int, str]) -> Table:
    """Regions by the names of the labels: the brain tumour's, or one region for each label."""
    names = {value: name.lower() for value, name in labels.items() if value}
    oedema = frozenset(v for v, name in names.items() if "edema" in name)  # oedema as well
    other = frozenset(v for v, name in names.items() if "non-enhanc" in name)
    enhancing = frozenset(v for v, name in names.items() if "enhanc" in name) - other
    if oedema and other and enhancing and oedema | other | enhancing == frozenset(names):
        return {
            "whole_tumour": frozenset(names),
            "tumour_core": other | enhancing,
            "enhancing": enhancing,
        }
    if not names:
        return LABELS["msd"]
    single: dict[str, Any] = {name: frozenset({value}) for value, name in names.items()}
    return {"foreground": frozenset(names)} | single


def _path(folder: Path, name: str) -> Path:
    return folder / PurePosixPath(name.replace("\\", "/"))


def _stem(name: str) -> str:
    file = PurePosixPath(name.replace("\\", "/")).name
    return file.removesuffix(".gz").removesuffix(".nii")
