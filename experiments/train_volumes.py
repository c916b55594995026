"""Train a 3D (or slice-wise) segmentation network on NIfTI volumes under a QAT recipe.

    python -m experiments.data --nifti brains --patients 12    # data to try it with
    python -m experiments.train_volumes --root brains --arch unet --patch-size 32 32 32
    python -m experiments.train_volumes --root BraTS2023 --recipe 2d+rht+sr --dtype bfloat16

The run's folder under --out gets its configuration, metrics.jsonl, checkpoints, and when it is
done summary.json, test_cases.csv and the test cases' predictions as NIfTI files. Repeating a
command goes on where it was interrupted.
"""

import dataclasses
from pathlib import Path

from experiments.command import main
from fp4jax import volumes


@dataclasses.dataclass(frozen=True)
class Args:
    # model, training, evaluation
    run: volumes.VolumeRun = dataclasses.field(default_factory=volumes.VolumeRun)
    # the labelled cases
    source: volumes.Source = dataclasses.field(default_factory=volumes.Source)
    # the run's folder lies in here
    out: Path = Path("runs")
    # draw the test cases with outlines; pictures of patients may not be passed on freely
    pictures: bool = False
    # print size, cost, precision of each layer and memory of the model, and train nothing
    dry_run: bool = False


def command(args: Args) -> None:
    if args.dry_run:
        print(volumes.dry_run(args.run))
        return
    folder = volumes.train(args.run, args.source, args.out, pictures=args.pictures)
    summary = folder.summary() or {}
    for region, scores in summary["test"].items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"{region}: {shown}")
    print(folder.path)


if __name__ == "__main__":
    main(command, Args, __doc__)
