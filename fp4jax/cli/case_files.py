"""How the files of NIfTI cases are laid out, where it is another way than that of the run."""

import dataclasses
from pathlib import Path
from typing import Any

from fp4jax import predict
from fp4jax.predict import Network
from fp4jax.train import Slices, Volumes


@dataclasses.dataclass(frozen=True)
class Files:
    """How NIfTI files are laid out; default: as those of the run."""

    # brats2020, brats2021, brats2023, brats2024 or msd; auto finds out
    layout: str | None = None
    # for any other folder: modality and pattern of its files, flair Flair*.nii.gz
    patterns: dict[str, str] = dataclasses.field(default_factory=dict)
    # with patterns: that of the label maps
    label: str | None = None
    # with patterns: what the labels' values mean, the name of a layout with the same, or regions
    # such as core=1,4 whole=1,2,4
    labels: str | None = None
    # with patterns: that of brain masks
    mask: str | None = None
    # the files' names of the network's channels, in its order
    modalities: tuple[str, ...] | None = None
    # voxels are resampled to these edges, mm
    spacing: tuple[float, float, float] | None = None
    # share of a window that its neighbour covers too
    overlap: float | None = None


def given(options: Any) -> dict[str, Any]:
    """Those options that the command line has."""
    return {name: value for name, value in vars(options).items() if value not in (None, {})}


def reading(files: Files, network: Network, place: Path | None) -> Volumes:
    """How cases are read: as the network's were, but for what the command line says.

    Args:
        files: the options.
        network: of slices or of volumes.
        place: the folder of the cases, or a file.

    Raises:
        ValueError: options that would be ignored, or that the network does not allow.
    """
    changes = given(files)
    ignored = [f"--{name}" for name in ("spacing", "overlap") if name in changes]
    if ignored and isinstance(network.task, Slices):
        raise ValueError(
            f"{', '.join(ignored)}: of networks of volumes, {network.about.run} sees whole slices."
        )
    if "layout" in changes:
        if "patterns" in changes:
            raise ValueError("--layout and --patterns exclude each other; give one of them.")
        # In place of the run's patterns.
        changes = {"patterns": {}, "label": None, "labels": None, "mask": None, **changes}
    if place is not None and place.is_file():
        ignored = [name for name in ("layout", "patterns", "label", "mask") if name in changes]
        if ignored:
            flags = ", ".join(f"--{name}" for name in ignored)
            raise ValueError(f"{flags}: of folders, {place} is a file.")
    return predict.reading_of(network, **changes)
