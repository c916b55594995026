"""Segment NIfTI volumes, with or without labels, with a run or with a MONAI checkpoint in FP4.

    python -m experiments.segment runs/swin_unetr3d_4m_2d-rht-sr_... --root new --out masks
    python -m experiments.segment --weights monai.safetensors --recipe 2d+rht+sr --root new

Takes the best epoch of a finished run, or a checkpoint that --recipe quantizes after training.
Writes a label map CASE.nii.gz per case, with the affine and header of the case's images, and for
cases that have labels scores.csv. For research only, no medical device.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.command import main
from fp4jax import volumes


@dataclasses.dataclass(frozen=True)
class Args:
    # folder of a finished run; without it --weights
    folder: Annotated[Path | None, tyro.conf.Positional] = None
    # of the checkpoint; for a run only --recipe, --overlap and --windows may be given
    run: volumes.VolumeRun = dataclasses.field(default_factory=volumes.VolumeRun)
    # what is segmented
    source: volumes.Source = dataclasses.field(default_factory=volumes.Source)
    # folder for the label maps
    out: Path = Path("masks")
    # replace files of an earlier call
    overwrite: bool = False
    # draw the cases with outlines; pictures of patients may not be passed on freely
    pictures: bool = False


def command(args: Args) -> None:
    if args.folder is None:
        segmenter = volumes.from_weights(args.run)
    else:
        segmenter = volumes.from_run(args.folder, args.run)
    options = {"overwrite": args.overwrite, "pictures": args.pictures}
    for one in volumes.segment(segmenter, args.source, args.out, **options):
        found = [f"{name} {ml:.1f} ml" for name, ml in one.volumes.items()]
        if one.scores is not None:
            found.append(f"mean Dice {one.scores['mean']['dice']:.3f}")
        print(f"{one.path}: {', '.join(found)}")


if __name__ == "__main__":
    main(command, Args, __doc__)
