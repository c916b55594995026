"""How a network reads NIfTI cases: which files are its channels, and what label values mean."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.nifti import LABELS, Case, VolumeSet
from fp4jax.data.nifti.volume import is_nifti_name, read_geometry
from fp4jax.predict.network import Network
from fp4jax.train import Slices, Source, Volumes
from fp4jax.train.volumes.data import open_volumes

# Cohorts of slices that were made from NIfTI volumes in a known way, and their layouts.
_LAYOUTS = {"brats": "auto", "msd": "msd"}
# Of both tasks, where the task of slices has them.
_SHARED = ("patterns", "label", "labels", "mask", "patient_pattern")


def reading_of(network: Network) -> Volumes:
    """The data of a network, as NIfTI cases are read for it.

    Raises:
        ValueError: a network of slices that were not made from NIfTI volumes, or of other data.
    """
    task = network.task
    if isinstance(task, Volumes):
        return task
    if not isinstance(task, Slices):
        raise ValueError(f"the model {network.about.run} is of {task.kind}, not of NIfTI volumes.")
    if task.cohort not in _LAYOUTS:
        raise ValueError(
            f"the model {network.about.run} was trained on slices of {task.cohort}, whose grey "
            "levels were not made from NIfTI volumes in a way that could be repeated; give it "
            "PNG or TIFF slices as it was trained on, or train one with --data brats or msd."
        )
    known = {name: value for name in _SHARED if (value := getattr(task, name, None))}
    layout = "auto" if "patterns" in known else _LAYOUTS[task.cohort]
    return Volumes(
        modalities=network.about.channels or None,
        regions=(task.target or "whole_tumour",),
        layout=layout,
        **known,
    )


def open_cases(network: Network, reading: Volumes, source: Source) -> VolumeSet:
    """The cases of a folder, or of a single file, with the network's channels and regions.

    Prepared volumes are kept only where the source names a cache.

    Raises:
        ValueError: no cases, or cases that do not fit the network.
    """
    about = network.about
    channels, regions = about.channels, about.regions
    if isinstance(network.task, Slices):
        channels, regions = reading.modalities or channels, reading.regions or regions
    if reading.modalities is not None and len(reading.modalities) != about.in_channels:
        raise ValueError(
            f"modalities are {reading.modalities}; the network has {about.in_channels} channels "
            f"({', '.join(about.channels)}), name the files of each."
        )
    if source.root is not None and source.root.is_file():
        cases: Sequence[Case] = [_case_of_file(network, source.root)]
        wanted = cases[0].modalities
    else:
        named = reading.modalities or (None if reading.patterns else channels)
        cases = dataclasses.replace(reading, modalities=named).cases(source)
        wanted = reading.modalities or channels
    cases = [with_table(case, reading, regions) for case in cases]
    return open_volumes(reading, cases, source, wanted, regions, keep=False)


def with_table(case: Case, reading: Volumes, regions: Sequence[str]) -> Case:
    """A case with label values for its results, also where its folder has no label maps."""
    if case.labels is not None or case.layout in LABELS:
        return case
    table: Any = LABELS[reading.layout if reading.layout in LABELS else "brats2023"]
    if not set(regions) <= set(table):
        table = {name: {number} for number, name in enumerate(regions, start=1)}
    return dataclasses.replace(case, labels=table)


def _case_of_file(network: Network, path: Path) -> Case:
    """A case of one file: of the only channel, or of all along its last axis."""
    if not is_nifti_name(path.name):
        raise ValueError(f"{path} is no NIfTI file; give a .nii or .nii.gz file, or a folder.")
    about = network.about
    name = path.name.lower()
    case = path.name[: -len(".nii.gz")] if name.endswith(".gz") else path.name[: -len(".nii")]
    names = about.channels or tuple(f"channel{i}" for i in range(about.in_channels))
    axes = len(read_geometry(path).source_shape)
    if len(names) > 1 and axes < 4:
        raise ValueError(
            f"{path} is one volume, the network takes {len(names)} channels "
            f"({', '.join(names)}); give the folder that has the files of all."
        )
    if len(names) == 1:
        return Case(case, "folder", ((names[0], path, None),), None)
    return Case(case, "folder", tuple((n, path, i) for i, n in enumerate(names)), None)
