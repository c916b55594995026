"""Train a segmentation model under a QAT recipe, and evaluate its best epoch.

    python -m experiments.train --arch swin --recipe 2d+rht+sr --image-size 128 --epochs 10
    python -m experiments.train --data lgg --root kaggle_3m --arch cnn --scale 4m --seeds 2026 2027

Each run has a folder under --out, named by its configuration. Repeating a command goes on where
it was interrupted, and does nothing for runs that are finished.
"""

import dataclasses
from pathlib import Path

from experiments.command import Source, main
from experiments.tables import print_runs
from fp4jax.train import RunConfig, dry_run, train


@dataclasses.dataclass(frozen=True)
class Args:
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    source: Source = dataclasses.field(default_factory=Source)
    # one run per seed, in one compilation; on GPUs side by side (default: --seed)
    seeds: tuple[int, ...] = ()
    # the runs' folders lie in here
    out: Path = Path("runs")
    # print size, cost, precision of each layer and memory of the model, and train nothing
    dry_run: bool = False


def command(args: Args) -> None:
    if args.dry_run:
        print(dry_run(args.run))
        return
    cohort = args.source.load(args.run.data, args.run.image_size)
    folders = train(args.run, cohort, args.out, args.seeds)
    print_runs([folder.summary() or {} for folder in folders])
    for folder in folders:
        print(folder.path)


if __name__ == "__main__":
    main(command, Args, __doc__)
