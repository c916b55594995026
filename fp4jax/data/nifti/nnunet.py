"""Raw folders of nnU-Net, version 1 and 2: a file for each channel, numbered at the end.

    Dataset001_BrainTumour/dataset.json                 channel_names (v2) or modality (v1), labels
    Dataset001_BrainTumour/imagesTr/BRATS_001_0000.nii.gz
    Dataset001_BrainTumour/labelsTr/BRATS_001.nii.gz
    Dataset001_BrainTumour/imagesTs/BRATS_485_0000.nii.gz

What lies in the folders counts; of ``dataset.json`` the channels, the labels and, where it has one,
the list ``dataset``.
"""

import collections
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.folders import entries, readable
from fp4jax.data.nifti import dataset_json
from fp4jax.data.nifti.case import Case
from fp4jax.data.nifti.decathlon import chosen
from fp4jax.data.nifti.volume import SUFFIXES, is_nifti_name, stem
from fp4jax.data.problems import refuse

_LOG = logging.getLogger("fp4jax.data")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_REMEDY = "Unpack the archive again, or correct the names, such as imagesTr/CASE_0000.nii.gz."

#: Case -> channel (None where the name has none) -> file.
Files = dict[str, dict[int | None, Path]]


def is_raw(file: Path, record: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is one of nnU-Net, and none of the Decathlon.

    Both name ``modality`` and ``training``; in version 1 of nnU-Net the images that it lists have
    the number of their channel at the end, but only on disk.
    """
    if "channel_names" in record or "file_ending" in record:
        return True
    folder = file.parent / "imagesTr"
    if not folder.is_dir():
        return False
    first = next(iter(record.get("training") or ()), None)
    named = first.get("image") if isinstance(first, Mapping) else first
    if (
        isinstance(named, str)
        and (file.parent / named).exists()
        and not _CHANNEL.fullmatch(dataset_json.id_of(named))
    ):
        return False
    return any(_CHANNEL.fullmatch(stem(path.name)) for path in _volumes(folder))


def find(
    file: Path, record: Mapping[str, Any], modalities: Sequence[str] | None = None
) -> tuple[Case, ...]:
    """The cases: training, by id, then those of ``imagesTs``, without labels.

    Args:
        file: ``dataset.json``.
        record: its content.
        modalities: those that are wanted; None means all that it names.

    Raises:
        ValueError: an unusable ``dataset.json``, files that are no NIfTI, channels that are
            missing.
    """
    try:
        names = dataset_json.channels(record)
        table = dataset_json.table(record)
        ending = str(record.get("file_ending", ".nii.gz"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no dataset.json of nnU-Net ({type(error).__name__}: {error}): "
            f"channel_names (or modality) and labels are needed. {dataset_json.REMEDY}"
        ) from error
    if not ending.lower().endswith(SUFFIXES):
        raise ValueError(f"{file} says that files end in {ending!r}; convert them to NIfTI first.")
    wanted = chosen(file, names, modalities)
    channel = {name: index for index, name in names.items()}
    root = file.parent
    train, labels = _listed(root, record) or (
        _images(root / "imagesTr"),
        {readable(stem(path.name)): path for path in _volumes(root / "labelsTr")},
    )
    test = _images(root / "imagesTs")
    problems, cases = [], []
    if not train and not test:
        problems.append("no NIfTI files in imagesTr")
    for part, files in (("imagesTr", train), ("imagesTs", test)):
        for case, found in sorted(files.items()):
            images = []
            for name in wanted:
                index = channel[name]
                if index in found:
                    images.append((name, found[index], None))
                elif None in found and set(found) == {None}:
                    # Without a number: the only channel, or all of them in one file of four axes.
                    images.append((name, found[None], index if len(names) > 1 else None))
                else:
                    missing = f"{part}/{case}_{index:04d}{ending}"
                    problems.append(f"{case}: modality {name} is missing, {missing}")
            label = labels.get(case) if part == "imagesTr" else None
            cases.append(Case(case, "nnunet", tuple(images), label, labels=table))
    alone = sorted(set(labels) - set(train))
    if alone:
        problems.append(f"label maps without images: {', '.join(alone[:5])}")
    if problems:
        refuse(root, problems, _REMEDY)
    if isinstance(record.get("numTraining"), int) and record["numTraining"] != len(train):
        _LOG.warning(
            "%s: numTraining is %d, and there are %d training cases",
            *(file, record["numTraining"], len(train)),
        )
    return tuple(cases)


def _listed(root: Path, record: Mapping[str, Any]) -> tuple[Files, dict[str, Path]] | None:
    """The files that the list ``dataset`` names, None if there is none."""
    listed = record.get("dataset")
    if not isinstance(listed, Mapping) or not listed:
        return None
    files: Files = {}
    labels: dict[str, Path] = {}
    problems = []
    for case, entry in listed.items():
        try:
            images = [dataset_json.resolve(root, str(name)) for name in entry["images"]]
            label = dataset_json.resolve(root, str(entry["label"])) if entry.get("label") else None
        except (KeyError, TypeError, AttributeError):
            problems.append(f"{case}: dataset names no images of it")
            continue
        files[case] = dict(enumerate(images))
        if label is not None:
            labels[case] = label
        problems += [
            f"{case}: {path} is missing"
            for path in (*images, label)
            if path is not None and not path.exists()
        ]
    if problems:
        refuse(root, problems, dataset_json.REMEDY)
    return files, labels


def _images(folder: Path) -> Files:
    files: Files = collections.defaultdict(dict)
    for path in _volumes(folder):
        name = readable(stem(path.name))
        match = _CHANNEL.fullmatch(name)
        case, index = (match["case"], int(match["channel"])) if match else (name, None)
        files[case].setdefault(index, path)
    # A case whose own name ends in four digits: its file has no channel.
    every = [index for found in files.values() for index in found]
    if every and not any(index == 0 for index in every):
        return {readable(stem(path.name)): {None: path} for path in _volumes(folder)}
    return dict(files)


def _volumes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in entries(folder) if is_nifti_name(path.name)]
