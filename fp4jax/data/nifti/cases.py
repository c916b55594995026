"""find_cases: the cases of a data set on disk, in any of the known layouts."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.folders import walk
from fp4jax.data.nifti import bids, brats, dataset_json, decathlon, folder, nnunet
from fp4jax.data.nifti.case import Case, canonical_all
from fp4jax.data.nifti.labels import given
from fp4jax.data.nifti.persons import grouped
from fp4jax.data.other_files import others
from fp4jax.files import expanded

LAYOUTS = ("auto", *brats.LAYOUTS, "msd", "nnunet", "bids", "folder")


def find_cases(
    root: str | os.PathLike,
    layout: str = "auto",
    *,
    modalities: Mapping[str, str] | Sequence[str] | None = None,
    label: str | None = None,
    labels: str | Mapping[str, Collection[int]] | None = None,
    mask: str | None = None,
    patient_pattern: str | None = None,
) -> tuple[Case, ...]:
    """The cases below a folder, sorted by id (those of the Decathlon as ``dataset.json`` has them).

    Names are looked at; files are read when a case is loaded, but for the few label maps that tell
    in which year's way a set named as BraTS 2020 is labelled. What operating systems and file
    servers leave is skipped (:mod:`fp4jax.data.folders`). Modalities are called flair, t1,
    t1c and t2 in every layout. Cases without a label map (BraTS' validation, the Decathlon's test
    cases, what nobody has labelled yet) have label None. Scans of one patient have one ``patient``
    (:mod:`fp4jax.data.patients`).

    Args:
        root: the unpacked set; ``~`` is the home folder.
        layout: ``"brats2020"`` (2018 to 2020) and ``"brats2021"`` (``_flair _t1 _t1ce _t2 _seg``),
            ``"brats2023"`` and ``"brats2024"`` (``-t2f -t1n -t1c -t2w -seg``; alike but for the
            labels, so the year is looked for in the names of folders, and is 2023 otherwise),
            ``"msd"`` and ``"nnunet"`` (a ``dataset.json``), ``"bids"`` (``sub-01/ses-02``),
            ``"folder"`` (by patterns), or ``"auto"``, which tells all but the last from the files.
        modalities: which modalities a case must have; None means all of the layout. For layout
            ``"folder"`` the pattern of each one's file name, ``{"flair": "Flair*.nii.gz"}``, in
            the case's folder, or ``{"flair": "imagesTr/{id}_0000.nii.gz"}`` below the root.
        label, mask: for layout ``"folder"``, the patterns of label map and brain mask.
        labels: what the values of label maps mean: region -> values, ``"core=1,4 whole=1,2,4"``, or
            the name of a layout with the same. Needed for layout ``"folder"`` where there are label
            maps; elsewhere in place of what the layout says.
        patient_pattern: a regular expression whose group is the patient in a scan's id, or in its
            path below the root; None: by rules.

    Raises:
        ValueError: no cases; an image or a label map that is missing (with the case and the file);
            an unknown layout, or options that it does not have.

    Example::

        cases = find_cases("MICCAI_BraTS2020_TrainingData")
        cases = find_cases(
            "brats_2013",
            layout="folder",
            modalities={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
            label="OTMultiClass*.nii.gz",
            labels="brats2013",
            mask="brainmask*.nii.gz",
        )
    """
    base = expanded(root)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; there are {', '.join(LAYOUTS)}.")
    if base is None or not base.is_dir():
        raise ValueError(f"{base} is not a folder; give the folder of the unpacked data set.")
    if layout == "folder":
        patterns: Any = modalities
        return grouped(folder.find(base, patterns, label, labels, mask), patient_pattern)
    if label is not None or mask is not None:
        raise ValueError(
            f"label and mask belong to layout 'folder' (--patterns); layout {layout!r} knows its "
            "own."
        )
    if isinstance(modalities, Mapping):
        raise ValueError(
            f"modalities are the patterns {modalities!r}; pass layout='folder' with them, or only "
            "the names."
        )
    wanted = None if modalities is None else canonical_all(modalities)
    cases = _known(base, layout, wanted, labels)
    if not cases:
        looked_for = {
            "msd": "no dataset.json",
            "nnunet": "no dataset.json",
            "bids": "no images in folders named sub-...",
            "auto": "no dataset.json of the Decathlon or of nnU-Net, no subjects of BIDS and no "
            "files named as in BraTS (..._flair.nii.gz, ...-t2f.nii.gz)",
        }.get(layout, f"no files named as in {layout}")
        raise ValueError(
            f"No cases in {base}: {looked_for}{folder.there_are(base)}.{_other_files(base)} Check "
            "the folder, or describe it: --patterns flair '*flair*.nii.gz' --label "
            "'*seg*.nii.gz' --labels whole_tumour=1,2,4, by paths where folders sort files: "
            "'imagesTr/{id}_0000.nii.gz'."
        )
    return grouped(cases, patient_pattern)


def _other_files(root: Path) -> str:
    """A sentence about files that a user may have taken for a data set."""
    if (root.parent / "dataset.json").is_file():
        return f" There is a dataset.json beside it: give {root.parent}."
    return others(folder / name for folder, _, names in walk(root) for name in names)


def _known(
    root: Path,
    layout: str,
    modalities: tuple[str, ...] | None,
    labels: str | Mapping[str, Collection[int]] | None,
) -> tuple[Case, ...]:
    """The cases of a layout that says what its files are called; none if they are not there."""
    table = given(labels)
    found = dataset_json.read(root) if layout in ("auto", "msd", "nnunet") else None
    if found is not None:
        file, record = found
        raw = layout == "nnunet" or nnunet.is_raw(file, record)
        cases = (nnunet if raw else decathlon).find(file, record, modalities)
        if table is not None:
            cases = tuple(dataclasses.replace(case, labels=table) for case in cases)
        return cases
    cases = bids.find(root, modalities, table) if layout in ("auto", "bids") else ()
    if not cases and layout in ("auto", *brats.LAYOUTS):
        cases = brats.find(root, None if layout == "auto" else layout, modalities, table)
    return cases
