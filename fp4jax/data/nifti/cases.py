"""find_cases: the cases of a data set on disk, in any of the known layouts."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.nifti import brats, decathlon, folder
from fp4jax.data.nifti.case import Case, canonical_all

LAYOUTS = ("auto", *brats.LAYOUTS, "msd", "folder")


def find_cases(
    root: str | os.PathLike,
    layout: str = "auto",
    *,
    modalities: Mapping[str, str] | Sequence[str] | None = None,
    label: str | None = None,
    labels: str | Mapping[str, Collection[int]] | None = None,
    mask: str | None = None,
) -> tuple[Case, ...]:
    """The cases below a folder, sorted by id (those of the Decathlon as ``dataset.json`` has them).

    Only names are looked at; files are read when a case is loaded. Modalities are called flair, t1,
    t1c and t2 in every layout. Cases without a label map (BraTS' validation, the Decathlon's test
    cases) have label None.

    Args:
        root: the unpacked set.
        layout: ``"brats2020"`` (2018 to 2020) and ``"brats2021"`` (``_flair _t1 _t1ce _t2 _seg``),
            ``"brats2023"`` and ``"brats2024"`` (``-t2f -t1n -t1c -t2w -seg``; alike but for the
            labels, so the year is looked for in the names of folders, and is 2023 otherwise),
            ``"msd"`` (a ``dataset.json``), ``"folder"`` (by patterns), or ``"auto"``, which tells
            all but the last from the files.
        modalities: which modalities a case must have; None means all of the layout. For layout
            ``"folder"`` the pattern of each one's file name, ``{"flair": "Flair*.nii.gz"}``, in
            the case's folder, or ``{"flair": "imagesTr/{id}_0000.nii.gz"}`` below the root.
        label, mask: for layout ``"folder"``, the patterns of label map and brain mask.
        labels: region -> label values, or the name of a layout with the same values; for layout
            ``"folder"``, where there are label maps.

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
    base = Path(root)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; there are {', '.join(LAYOUTS)}.")
    if not base.is_dir():
        raise ValueError(f"{base} is not a folder; give the folder of the unpacked data set.")
    if layout == "folder":
        patterns: Any = modalities
        return folder.find(base, patterns, label, labels, mask)
    if label is not None or labels is not None or mask is not None:
        raise ValueError(
            f"label, labels and mask belong to layout 'folder'; layout {layout!r} knows its own."
        )
    if isinstance(modalities, Mapping):
        raise ValueError(
            f"modalities are the patterns {modalities!r}; pass layout='folder' with them, or only "
            "the names."
        )
    wanted = None if modalities is None else canonical_all(modalities)
    cases: tuple[Case, ...] = ()
    if layout in ("auto", "msd"):
        cases = decathlon.find(base, wanted)
    if not cases and layout != "msd":
        cases = brats.find(base, None if layout == "auto" else layout, wanted)
    if not cases:
        looked_for = {
            "msd": "no dataset.json",
            "auto": "no dataset.json of the Decathlon and no files named as in BraTS "
            "(..._flair.nii.gz, ...-t2f.nii.gz)",
        }.get(layout, f"no files named as in {layout}")
        raise ValueError(
            f"No cases in {base}: {looked_for}. Check the folder, or describe it: "
            "layout='folder', modalities={'flair': '*flair*.nii.gz'}, label='*seg*.nii.gz', "
            "labels={'whole_tumour': {1, 2, 4}}."
        )
    return cases
