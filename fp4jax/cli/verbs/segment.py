"""Segment NIfTI volumes, with or without labels: with a run, a packed file or a MONAI checkpoint.

    fp4jax segment runs/swin_unetr3d_4m_2d-rht-sr_... --root new --out masks
    fp4jax segment model.safetensors --root new --out masks
    fp4jax segment --weights monai.safetensors --recipe 2d+rht+sr --root new
    fp4jax segment runs/unet_..._fold0_... --folds --mirror --root new

Takes the best epoch of a run, what fp4jax predict --save wrote, or a checkpoint that --recipe
quantizes after training; of several models (--folds: of all folds of a cross-validation) the mean
of their probabilities. Runs on slices of NIfTI volumes (--data brats, msd) segment cases slice by
slice. How files are named, channels, spacing and label values are the run's; only --root is asked.
Writes a label map CASE.nii.gz per case, with the affine and header of the case's images, and for
cases that have labels scores.csv, of the maps as they are written. Repeating a command goes on
where it was interrupted. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fp4jax import predict
from fp4jax.cli.case_files import Files, given, reading
from fp4jax.cli.command import Verb
from fp4jax.cli.models import network_of
from fp4jax.predict import CaseOptions, Network, SegmentedCase
from fp4jax.train import RunConfig, Source, Volumes


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
    # folders of runs, or packed files; without any --weights
    models: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    # another recipe than the run's, or that of the checkpoint
    recipe: str | None = None
    # of one run of a cross-validation: all of its folds
    folds: bool = False
    # average over the mirror images that the training saw
    mirror: bool = False
    # with the static scales that the runs were calibrated to (train --calibrate)
    static: bool = False

    files: Annotated[Files, tyro.conf.arg(name="NIfTI")] = dataclasses.field(default_factory=Files)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    source: Source = dataclasses.field(default_factory=Source)
    # folder for the label maps
    out: Path = Path("masks")

    options: Annotated[CaseOptions, tyro.conf.arg(name="results")] = dataclasses.field(
        default_factory=CaseOptions
    )
    # measure how long one image takes, of networks of volumes one window
    time: bool = False


def command(args: Args) -> None:
    network = _network(args)
    # A checkpoint's task has them already.
    files = args.files if args.models else Files()
    way = reading(files, network, args.source.root)
    if args.time:
        print(predict.latency(network))
    for one in predict.segment_volumes(network, args.source, args.out, args.options, reading=way):
        print_case(one)


def print_case(case: SegmentedCase) -> None:
    """What was found in a case, in one line."""
    found = [f"{name} {ml:.1f} ml" for name, ml in case.volumes.items()]
    if case.scores is not None:
        found.append(f"mean Dice {case.scores['mean']['dice']:.3f}")
    print(f"{case.path}: {', '.join(found)}")


def _network(args: Args) -> Network:
    model = given(args.checkpoint)
    if args.models:
        if model:
            flags = ", ".join("--" + name.replace("_", "-") for name in model)
            raise ValueError(
                f"{flags} cannot be changed: for a checkpoint, {args.models[0]} has settled it."
            )
        return network_of(
            args.models,
            recipe=args.recipe,
            folds=args.folds,
            mirror=args.mirror,
            static=args.static,
        )
    if args.static:
        raise ValueError("--static: of runs that were calibrated; a checkpoint was not.")
    if args.folds:
        raise ValueError("--folds: of the runs of a cross-validation; name one of them.")
    data = {name: model.pop(name) for name in _OF_DATA if name in model}
    recipe: dict[str, Any] = {} if args.recipe is None else {"recipe": args.recipe}
    task = Volumes(**given(args.files), **data)
    network = predict.from_weights(RunConfig(task, **model, **recipe))
    return predict.with_mirroring(network) if args.mirror else network


VERB = Verb(command, Args, __doc__)
