"""The cases of a run: where they are, how they are split by patient, and their label maps."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fp4jax.data import Split, nifti
from fp4jax.data.nifti import Case, LoadedCase, PatchSampler, VolumeSet
from fp4jax.volumes.config import VolumeRun
from fp4jax.volumes.digest import digest
from fp4jax.volumes.split import split_patients


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of NIfTI cases, in a known layout or described by patterns.

    Example::

        Source(Path("ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData"))
        Source(
            Path("brats_2013"),
            patterns={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
            label="OTMultiClass*.nii.gz",
            labels="brats2013",
        )
    """

    # folder of the cases: BraTS 2020 to 2024, a task of the Medical Segmentation Decathlon, or any
    # other with --patterns
    root: Path | None = None
    # brats2020, brats2021, brats2023, brats2024 or msd; auto finds out
    layout: str = "auto"
    # for any other folder: modality and pattern of its files, flair Flair*.nii.gz
    patterns: dict[str, str] = dataclasses.field(default_factory=dict)
    # with --patterns: that of the label maps
    label: str | None = None
    # with --patterns: what the labels' values mean, the name of a layout with the same, or regions
    # such as core=1,4 whole=1,2,4
    labels: str | None = None
    # with --patterns: that of brain masks
    mask: str | None = None
    # prepared volumes are kept here; default: $FP4JAX_CACHE, else ~/.cache/fp4jax
    cache: Path | None = None

    def cases(self, modalities: Sequence[str] | None) -> tuple[Case, ...]:
        """What is there, sorted by id.

        Raises:
            ValueError: no folder, no cases, or cases that lack a modality.
        """
        if self.root is None:
            raise ValueError("no data: name the folder of the cases with --root.")
        if not self.patterns:
            for name in ("label", "mask", "labels"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} describes other folders; give --patterns with it.")
            return nifti.find_cases(self.root, self.layout, modalities=modalities)
        return nifti.find_cases(
            self.root,
            "folder",
            modalities=self.patterns,
            label=self.label,
            labels=_table(self.labels),
            mask=self.mask,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The labelled cases of a run.

    Attributes:
        volumes: their arrays.
        split: of the patients.
        digest: of the files.
    """

    volumes: VolumeSet
    split: Split
    digest: str

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.volumes.modalities

    @property
    def regions(self) -> tuple[str, ...]:
        return self.volumes.regions

    def places(self, part: str) -> list[int]:
        """Places of the cases of the patients in a part of the split: train, val or test."""
        patients = set(getattr(self.split, part))
        return [i for i, patient in enumerate(self.volumes.patients) if patient in patients]

    def sampler(self, config: VolumeRun) -> PatchSampler:
        """Patches of the training cases; of one voxel's thickness for models of slices."""
        return PatchSampler(
            self.volumes,
            self.places("train"),
            (*config.patch_size, 1)[:3],
            config.batch_size,
            config.foreground,
            config.seed,
        )


def open_data(config: VolumeRun, source: Source) -> Data:
    """The labelled cases of a folder, split by patient as the configuration says.

    Raises:
        ValueError: no labelled cases, too few patients, or modalities or regions that cases lack.
    """
    cases = [case for case in source.cases(config.modalities) if case.label is not None]
    if not cases:
        raise ValueError(f"no case in {source.root} has a label map; there is nothing to learn.")
    volumes = open_volumes(cases, config, source, config.modalities, config.regions)
    split = split_patients(volumes.patients, config.val_share, config.test_share, config.split_seed)
    return Data(volumes, split, digest(cases, volumes.modalities, volumes.regions))


def open_volumes(
    cases: Sequence[Case],
    config: VolumeRun,
    source: Source,
    modalities: Sequence[str] | None,
    regions: Sequence[str] | None,
    *,
    keep: bool = True,
) -> VolumeSet:
    """The arrays of cases; without modalities or regions those that the first case has.

    With ``keep=False`` prepared volumes are kept only where the source names a cache.
    """
    table = tuple(cases[0].table)
    known = nifti.REGIONS if set(nifti.REGIONS) <= set(table) else table
    return VolumeSet(
        cases,
        modalities or cases[0].modalities,
        regions or known,
        config.spacing,
        cache=source.cache if keep or source.cache else False,
    )


def save(path: Path, masks: np.ndarray, case: LoadedCase, *, overwrite: bool = False) -> None:
    """Writes the masks (x, y, z, k) of a case as a label map, in the values of its own labels."""
    labels = nifti.to_labels(masks, case.case.table, names=case.regions)
    nifti.save_prediction(path, labels, case, overwrite=overwrite)


def _table(labels: str | None) -> Any:
    """A layout's name, or region -> values from ``core=1,4 whole=1,2,4``."""
    if labels is None or "=" not in labels:
        return labels
    try:
        pairs = [part.split("=") for part in labels.split()]
        return {name: {int(value) for value in values.split(",")} for name, values in pairs}
    except ValueError as error:
        raise ValueError(
            f"labels are {labels!r}; give a layout's name, or regions with their label values, "
            "such as 'core=1,4 whole=1,2,4'."
        ) from error
