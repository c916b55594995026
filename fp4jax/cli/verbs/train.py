"""Train a segmentation model under a QAT recipe, and evaluate its best epoch.

    fp4jax train --arch swin --recipe 2d+rht+sr --image-size 128 --epochs 10
    fp4jax train --data lgg --root kaggle_3m --arch cnn --scale 4m --seeds 2026 2027
    fp4jax train --task volumes --root BraTS2023 --recipe 2d+rht+sr
    srun fp4jax train-volumes --root BraTS2023 --distributed
    fp4jax train-volumes --root BraTS2023 --distributed --engine ray --address auto
    fp4jax train --config runs/RUN/config.json --recipe full
    fp4jax train --arch cnn --recipe full --track tensorboard wandb:lab

Each run has a folder under --out, named by its configuration and its data. Repeating a command goes
on where it was interrupted, and does nothing for runs that are finished.
"""

import dataclasses
from pathlib import Path

import tyro

from fp4jax.cli.command import Verb
from fp4jax.cli.host_options import HostOptions
from fp4jax.cli.options import RunOptions, SavingOptions, by_task, from_config
from fp4jax.cli.tables import print_runs
from fp4jax.cli.track_options import TrackOptions
from fp4jax.cli.training import Training
from fp4jax.train import Source, dry_run


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
    # draw what was found in the test patients, which may not be passed on freely; of the synthetic
    # cohort they are always drawn
    pictures: tyro.conf.FlagCreatePairsOff[bool] = False

    tracking: TrackOptions = dataclasses.field(default_factory=TrackOptions)
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
    wait = None if args.wait else args.hosts.wait
    saving = args.saving.saving()
    # Processes of a cluster may begin in another folder.
    out = args.out.absolute() if args.hosts.engine == "ray" else args.out
    training = Training(
        config, args.source, out, args.seeds, saving, args.pictures, wait, args.tracking
    )
    folders = args.hosts.run(training)
    if folders is None:  # the first of several processes says it
        return
    summaries = [folder.summary() for folder in folders]
    if None in summaries:
        raise ValueError(
            f"the processes wrote to {out}, which this host does not see; give a folder that all "
            "hosts share."
        )
    print_runs(filter(None, summaries))
    for folder in folders:
        print(folder.path)


VERB = Verb(command, by_task(Args), __doc__, config=from_config(Args))
