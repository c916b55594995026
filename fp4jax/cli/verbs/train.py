"""Train a segmentation model under a QAT recipe, and evaluate its best epoch.

    fp4jax train --arch swin --recipe 2d+rht+sr --image-size 128 --epochs 10
    fp4jax train --data lgg --root kaggle_3m --arch cnn --scale 4m --seeds 2026 2027
    fp4jax train --task volumes --root BraTS2023 --recipe 2d+rht+sr
    srun fp4jax train-volumes --root BraTS2023 --distributed
    fp4jax train --config runs/RUN/config.json --recipe full

Each run has a folder under --out, named by its configuration and its data. Repeating a command goes
on where it was interrupted, and does nothing for runs that are finished.
"""

import dataclasses
from pathlib import Path

from fp4jax.cli.command import Verb
from fp4jax.cli.options import HostOptions, RunOptions, SavingOptions, by_task, from_config
from fp4jax.cli.tables import print_runs
from fp4jax.predict.pictures import Pictures
from fp4jax.train import Options, Source, dry_run, train


@dataclasses.dataclass(frozen=True)
class Args:
    # slices, volumes, or a task that a plug-in registered
    task: str = "slices"
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    source: Source = dataclasses.field(default_factory=Source)
    # one run per seed, in one compilation; on GPUs side by side (default: --seed)
    seeds: tuple[int, ...] = ()
    # the runs' folders lie in here
    out: Path = Path("runs")
    # draw what was found in the test patients; pictures of patients may not be passed on freely
    # (of the synthetic cohort they are always drawn)
    pictures: bool = False
    saving: SavingOptions = dataclasses.field(default_factory=SavingOptions)
    hosts: HostOptions = dataclasses.field(default_factory=HostOptions)
    # wait for runs that another process trains; default: leave them alone
    wait: bool = False
    # look at the data, print size, cost, precision of each layer and memory, and train nothing
    dry_run: bool = False


def command(args: Args) -> None:
    config = args.run.config()
    if args.dry_run:
        absent = args.source.root is None and config.data.needs_root
        print(dry_run(config, None if absent else config.data.open(args.source)))
        return
    with args.hosts.joined() as devices:
        data = config.data.open(args.source)
        options = Options(
            listener=Pictures(args.pictures, args.source if args.pictures else None),
            saving=args.saving.saving(),
            wait=None if args.wait else 0.0,
            devices=devices,
        )
        folders = train(config, data, args.out, args.seeds, options=options)
        if not options.writes:
            return
        print_runs([folder.summary() or {} for folder in folders])
        for folder in folders:
            print(folder.path)


VERB = Verb(command, by_task(Args), __doc__, config=from_config(Args))
