"""The layout of the Medical Segmentation Decathlon: a ``dataset.json`` that lists all files.

    Task01_BrainTumour/dataset.json
    Task01_BrainTumour/imagesTr/BRATS_001.nii.gz    4-D where there are several modalities
    Task01_BrainTumour/labelsTr/BRATS_001.nii.gz

Only what ``dataset.json`` names is read, so that the ``._*.nii.gz`` files in the archives are not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.nifti import dataset_json
from fp4jax.data.nifti.case import Case, canonical
from fp4jax.data.problems import refuse


def find(
    file: Path, record: Mapping[str, Any], modalities: Sequence[str] | None = None
) -> tuple[Case, ...]:
    """The cases of a task: training (with labels), then test.

    Args:
        file: ``dataset.json``.
        record: its content.
        modalities: those that are wanted; None means all that it names.

    Raises:
        ValueError: an unusable ``dataset.json``, or files that it names and that do not exist.
    """
    try:
        names = dataset_json.channels(record)
        table = dataset_json.table(record)
        entries = [(entry["image"], entry["label"]) for entry in record["training"]]
        entries += [
            (entry if isinstance(entry, str) else entry["image"], None)
            for entry in record.get("test", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no dataset.json of the Decathlon ({type(error).__name__}: {error}): "
            f"modality, labels and training are needed. {dataset_json.REMEDY}"
        ) from error
    wanted = chosen(file, names, modalities)
    channel = {name: index for index, name in names.items()}
    problems, cases, seen = [], [], set()
    for image, label in entries:
        case, path = dataset_json.id_of(image), dataset_json.resolve(file.parent, image)
        label_path = None if label is None else dataset_json.resolve(file.parent, label)
        if case in seen:
            problems.append(f"{case}: dataset.json names it twice")
        seen.add(case)
        for what, needed in (("image", path), ("label map", label_path)):
            if needed is not None and not needed.exists():
                problems.append(f"{case}: its {what} {needed} is missing")
        images = tuple((name, path, channel[name] if len(names) > 1 else None) for name in wanted)
        cases.append(Case(case, "msd", images, label_path, labels=table))
    if not entries:
        problems.append("dataset.json names no cases")
    if problems:
        refuse(file.parent, problems, dataset_json.REMEDY)
    return tuple(cases)


def chosen(
    file: Path, names: Mapping[int, str], modalities: Sequence[str] | None
) -> tuple[str, ...]:
    """The modalities that are wanted, in order.

    Raises:
        ValueError: one that ``dataset.json`` does not have.
    """
    unknown = sorted({canonical(name) for name in modalities or ()} - set(names.values()))
    if unknown:
        raise ValueError(
            f"{file} has no modality {', '.join(unknown)}; it has {', '.join(names.values())}."
        )
    return tuple(canonical(name) for name in modalities or names.values())
