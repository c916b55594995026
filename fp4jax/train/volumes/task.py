"""Volumes: what a run sees of NIfTI cases, and what their files and labels are called."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from fp4jax import models
from fp4jax.core.typing import Array
from fp4jax.data import augment_volumes, nifti
from fp4jax.data.nifti import Case
from fp4jax.data.nifti.brats import MODALITIES
from fp4jax.data.nifti.persons import joined
from fp4jax.data.patients import pattern_problem
from fp4jax.train.task import Defaults, Monitor, Source, Task

if TYPE_CHECKING:
    from fp4jax.train.config import RunConfig
    from fp4jax.train.volumes.data import VolumeData

_RANGES = {"monai": augment_volumes.MONAI, "nnunet": augment_volumes.NNUNET}


@dataclasses.dataclass(frozen=True)
class Volumes(Task):
    """Patches of NIfTI volumes, or of their axial slices; whole cases in validation and test.

    Folders are in a known layout, or described by ``patterns`` with ``label`` and ``labels``:

    Example:
        >>> Volumes(spatial_dims=2, patch_size=(64, 64)).window
        (64, 64, 1)
        >>> old = Volumes(
        ...     patterns={"flair": "Flair*.nii.gz", "t1c": "T1c*.nii.gz"},
        ...     label="OTMultiClass*.nii.gz",
        ...     labels="brats2013",
        ... )
    """

    # 3 for volumes, 2 for their axial slices
    spatial_dims: Literal[2, 3] = 3
    # channels, in this order; default: all that the data set has
    modalities: tuple[str, ...] | None = None
    # what is segmented, each a channel of the targets; default: whole tumour, tumour core and
    # enhancing tumour, or all that the data set has
    regions: tuple[str, ...] | None = None
    # voxels are resampled to these edges, mm; default: as stored
    spacing: tuple[float, float, float] | None = None

    # brats2020, brats2021, brats2023, brats2024, msd, nnunet or bids; auto finds out
    layout: str = "auto"
    # for any other folder: modality and pattern of its files, flair Flair*.nii.gz
    patterns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # with --patterns: that of the label maps
    label: str | None = None
    # what the labels' values mean, the name of a layout with the same, or regions such as
    # core=1,4 whole=1,2,4; needed with --patterns, else in place of what the layout says
    labels: str | None = None
    # with --patterns: that of brain masks
    mask: str | None = None
    # regular expression whose group is the patient in the name of a scan, or in its path below the
    # root; default: by rules
    patient_pattern: str | None = None

    # edges of the patches in voxels; for slices two
    patch_size: tuple[int, ...] = (96, 96, 96)
    # share of the patches that are centred on a voxel of some region
    foreground: float = 0.5
    # steps of an epoch
    steps: int = 250
    # monai: flips and changes of intensity; nnunet: also rotations, zooms, noise and gamma
    augment: Literal["monai", "nnunet", "none"] = "monai"

    # share of a window that its neighbour covers too, in inference
    overlap: float = 0.5
    # share of the patients to choose the best epoch by, in the holdout split; 0: the last is best
    val_share: float = 0.1
    # share of the patients to report, in the holdout split
    test_share: float = 0.2

    kind: ClassVar[str] = "volumes"
    monitor: ClassVar[Monitor] = Monitor("dice", "max")
    defaults: ClassVar[Defaults] = Defaults(
        arch="swin_unetr",
        scale="4m",
        batch_size=2,
        loss="bce_dice",
        schedule="onecycle",
        early_stopping="none",
    )

    def __post_init__(self):
        if len(self.patch_size) != self.spatial_dims or min(self.patch_size) < 1:
            raise ValueError(
                f"patch_size is {self.patch_size}; give {self.spatial_dims} positive numbers of "
                f"voxels, because spatial_dims is {self.spatial_dims}."
            )
        for name in ("modalities", "regions"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} are {values}; name one or more, each once.")
        edges = (1.0, 1.0, 1.0) if self.spacing is None else self.spacing
        if len(edges) != 3 or not all(edge > 0 for edge in edges):
            raise ValueError(f"spacing is {self.spacing}; give three positive numbers of mm.")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1.")
        for name in ("val_share", "test_share", "overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share, 0 to below 1.")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is {self.foreground}; give a share, 0 to 1.")
        if not self.val_share + self.test_share < 1:
            raise ValueError(
                f"val_share is {self.val_share} and test_share {self.test_share}; together they "
                "must leave something to train on."
            )
        if not self.patterns:
            for name in ("label", "mask"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} describes other folders; give --patterns with it.")
        if self.patient_pattern is not None and (problem := pattern_problem(self.patient_pattern)):
            raise ValueError(problem)

    @property
    def name(self) -> str:
        return self.layout if self.layout != "auto" else f"volumes{self.spatial_dims}d"

    @property
    def window(self) -> tuple[int, int, int]:
        """The patch as a part of a volume."""
        x, y, z = (*self.patch_size, 1)[:3]
        return x, y, z

    def open(self, source: Source) -> "VolumeData":
        from fp4jax.train.volumes.data import VolumeData

        every = self.cases(source)
        cases = [case for case in every if case.label is not None]
        if not cases:
            raise ValueError(
                f"no case in {source.root} has a label map; there is nothing to learn. Give the "
                "training set, or with --patterns that of the label maps as --label."
            )
        return VolumeData(self, joined(cases), source, unlabelled=len(every) - len(cases))

    def assumed(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.modalities or MODALITIES, self.regions or nifti.REGIONS

    def cases(self, source: Source) -> tuple[Case, ...]:
        """What is there, with labels or without, sorted by id.

        Raises:
            ValueError: no folder, no cases, or cases that lack a modality.
        """
        if source.root is None:
            raise ValueError("no data: name the folder of the cases with --root.")
        if not self.patterns:
            return nifti.find_cases(
                source.root,
                self.layout,
                modalities=self.modalities,
                labels=self.labels,
                patient_pattern=self.patient_pattern,
            )
        return nifti.find_cases(
            source.root,
            "folder",
            modalities=dict(self.patterns),
            label=self.label,
            labels=self.labels,
            mask=self.mask,
            patient_pattern=self.patient_pattern,
        )

    def model_arguments(self, config: "RunConfig") -> dict[str, Any]:
        size = self.patch_size
        arguments: dict[str, Any] = {"image_size": size[0] if len(set(size)) == 1 else size}
        known = models.spatial_dims(config.arch)
        if self.spatial_dims not in known:
            raise ValueError(f"{config.arch} is a model of images; use --spatial-dims 2.")
        return arguments | ({"spatial_dims": self.spatial_dims} if len(known) > 1 else {})

    def batch(self, config: "RunConfig", channels: int, regions: int) -> tuple[Any, Any]:
        shape = (config.batch_size, *self.patch_size)
        return (
            jax.ShapeDtypeStruct((*shape, channels), jnp.float32),
            jax.ShapeDtypeStruct((*shape, regions), jnp.uint8),
        )

    def augmented(self, images: Array, targets: Array, keys: Array) -> tuple[Array, Array]:
        if self.augment == "none":
            return images, targets
        return augment_volumes.augment(images, targets, keys, _RANGES[self.augment])
