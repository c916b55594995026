"""Segment NIfTI volumes, with or without labels: with a run, a packed file or a MONAI checkpoint.

    python -m experiments.segment runs/swin_unetr3d_4m_2d-rht-sr_... --root new --out masks
    python -m experiments.segment model.safetensors --root new --out masks
    python -m experiments.segment --weights monai.safetensors --recipe 2d+rht+sr --root new

Takes the best epoch of a run, what experiments.predict --save wrote, or a checkpoint that --recipe
quantizes after training. How files are named, channels, spacing and label values are the run's;
only --root is asked. Writes a label map CASE.nii.gz per case, with the affine and header of the
case's images, and for cases that have labels scores.csv. Repeating a command goes on where it was
interrupted. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.command import main
from fp4jax import predict
from fp4jax.files import expanded
from fp4jax.predict import Network
from fp4jax.predict.volumes import volumes_task
from fp4jax.train import RunConfig, Source, Volumes


@dataclasses.dataclass(frozen=True)
class Files:
    """How the files are laid out; default: as those of the run."""

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


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The model that a checkpoint fits; a run or a packed file has settled it."""

    # checkpoint by torch's names (.safetensors, .npz, .pt)
    weights: Path | None = None
    # architecture (default: swin_unetr)
    arch: str | None = None
    # size of the model (default: monai)
    scale: str | None = None
    # further options of the model, by name and value
    model_options: dict[str, str] = dataclasses.field(default_factory=dict)
    # 3 for volumes, 2 for their axial slices
    spatial_dims: Literal[2, 3] | None = None
    # edges of the windows in voxels; for slices two
    patch_size: tuple[int, ...] | None = None
    # what is segmented (default: whole_tumour tumour_core enhancing)
    regions: tuple[str, ...] | None = None
    # name of the loss that it was trained with: of masks, or of classes that exclude each other
    loss: str | None = None
    # layers that stay in high precision, as regular expressions of their paths
    keep: tuple[str, ...] | None = None
    # dtype of the computation
    dtype: Literal["float32", "bfloat16"] | None = None


_OF_DATA = ("spatial_dims", "patch_size", "regions")


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a run, or a packed file; without it --weights
    model: Annotated[Path | None, tyro.conf.Positional] = None
    # another recipe than the run's, or that of the checkpoint
    recipe: str | None = None
    files: Files = dataclasses.field(default_factory=Files)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    # what is segmented
    source: Source = dataclasses.field(default_factory=Source)
    # folder for the label maps
    out: Path = Path("masks")
    # replace files of another command
    overwrite: bool = False
    # draw the cases with outlines; pictures of patients may not be passed on freely
    pictures: bool = False


def command(args: Args) -> None:
    network = _network(args)
    options = {"overwrite": args.overwrite, "pictures": args.pictures}
    for one in predict.segment_volumes(network, args.source, args.out, **options):
        found = [f"{name} {ml:.1f} ml" for name, ml in one.volumes.items()]
        if one.scores is not None:
            found.append(f"mean Dice {one.scores['mean']['dice']:.3f}")
        print(f"{one.path}: {', '.join(found)}")


def _network(args: Args) -> Network:
    path, files, model = expanded(args.model), _given(args.files), _given(args.checkpoint)
    if path is None:
        data = {name: model.pop(name) for name in _OF_DATA if name in model}
        recipe = {} if args.recipe is None else {"recipe": args.recipe}
        return predict.from_weights(RunConfig(Volumes(**files, **data), **model, **recipe))
    if model:
        flags = ", ".join("--" + name.replace("_", "-") for name in model)
        raise ValueError(f"{flags} cannot be changed: for a checkpoint, {path} has settled it.")
    if path.is_dir():
        network = predict.from_run(path, recipe=args.recipe)
    elif args.recipe is not None:
        raise ValueError(f"--recipe: for runs and checkpoints, but {path} is no folder.")
    else:
        network = predict.from_file(path)
    task = volumes_task(network)
    if "layout" in files:
        if "patterns" in files:
            raise ValueError("--layout and --patterns exclude each other; give one of them.")
        # In place of the run's patterns.
        files = {"patterns": {}, "label": None, "labels": None, "mask": None, **files}
    return dataclasses.replace(network, task=dataclasses.replace(task, **files))


def _given(options: Any) -> dict[str, Any]:
    """Those options that the command line has."""
    return {name: value for name, value in vars(options).items() if value not in (None, {})}


if __name__ == "__main__":
    main(command, Args, __doc__)
