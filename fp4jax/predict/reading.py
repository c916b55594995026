"""How a network reads NIfTI cases: which files are its channels, and what label values mean."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fp4jax.data.nifti import LABELS, Case, VolumeSet
from fp4jax.data.nifti.case import canonical
from fp4jax.data.nifti.labels import given
from fp4jax.data.nifti.volume import is_nifti_name, read_geometry
from fp4jax.predict.network import Network
from fp4jax.train import Slices, Source, Volumes
from fp4jax.train.volumes.data import open_volumes

_LOG = logging.getLogger("fp4jax.predict")

# Cohorts of slices that were made from NIfTI volumes in a known way, and their layouts.
_LAYOUTS = {"brats": "auto", "msd": "msd"}
# Of LGG's channels, for messages: modalities as BraTS calls them.
_EXAMPLE = {"pre-contrast": "t1", "FLAIR": "flair", "post-contrast": "t1c"}
# Of both tasks, where the task of slices has them.
_SHARED = ("patterns", "label", "labels", "mask", "patient_pattern")


def reading_of(network: Network, **changes: Any) -> Volumes:
    """How NIfTI cases are read for a network: as its data were, but for some changes.

    Volumes become slices as those of ``--data brats`` do. For a network of slices that were made
    in another way, such as LGG's, that is near to it and no more; so which modality is which of its
    channels must be said.

    Args:
        network: of slices or of volumes.
        changes: fields of :class:`fp4jax.train.Volumes` with other values.

    Raises:
        ValueError: a network of slices that were not made from NIfTI volumes without ``modalities``
            and without ``patterns`` of its channels, or one of other data.
    """
    task = network.task
    if isinstance(task, Slices):
        task = _of_slices(network, task, changes)
    if not isinstance(task, Volumes):
        raise ValueError(f"the model {network.about.run} is of {task.kind}, not of NIfTI volumes.")
    return dataclasses.replace(task, **changes)


def _of_slices(network: Network, task: Slices, changes: Mapping[str, Any]) -> Volumes:
    """Volumes that become slices."""
    about = network.about
    if task.cohort in _LAYOUTS:
        known = {name: value for name in _SHARED if (value := getattr(task, name, None))}
        layout = "auto" if "patterns" in known else _LAYOUTS[task.cohort]
        return Volumes(
            modalities=about.channels or None,
            regions=(task.target or "whole_tumour",),
            layout=layout,
            **known,
        )
    names = ", ".join(about.channels)
    patterns = changes.get("patterns") or {}
    by_name = bool(patterns) and set(map(canonical, patterns)) == set(
        map(canonical, about.channels)
    )
    if changes.get("modalities") is None and not by_name:
        raise ValueError(
            f"the model {about.run} was trained on slices of {task.cohort}, with "
            f"{about.in_channels} channels ({names}) whose grey levels were not made from NIfTI "
            "volumes in a way that could be repeated. Give it PNG or TIFF slices as it was trained "
            "on, or name the volumes that are its channels, in this order, such as --modalities "
            f"{' '.join(_EXAMPLE.get(name, name) for name in about.channels)}, with --patterns if "
            "they are not named as in BraTS: they become grey levels as for --data brats."
        )
    _LOG.warning(
        "%s was trained on slices of %s; volumes become grey levels in the way of --data brats, "
        "which may differ from its own. Look at what it finds.",
        *(about.run, task.cohort),
    )
    table = given(changes.get("labels"))
    regions = tuple(table) if table is not None and len(table) == 1 else ("whole_tumour",)
    return Volumes(modalities=None if by_name else changes["modalities"], regions=regions)


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
