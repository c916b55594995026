"""Runs from start to end: folder, training, evaluation of the best epoch, summary."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from fp4jax.data import Cohort, Split, fingerprint
from fp4jax.train.config import RunConfig
from fp4jax.train.console import progress_bar
from fp4jax.train.evaluation import evaluate
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import Fit, Run, places, steps_per_epoch
from fp4jax.train.parts import check_size, split_of
from fp4jax.train.program import Program

# of summary.json
SCHEMA = 1


def train(
    config: RunConfig,
    cohort: Cohort,
    out: Path,
    seeds: Sequence[int] | None = None,
    *,
    split: Split | None = None,
) -> list[RunFolder]:
    """Trains a run per seed and evaluates it; returns the folders, which have a summary each.

    Finished runs are not repeated, unfinished ones go on from their last checkpoint. All seeds
    share one compilation; on accelerators they are lanes of one ``vmap``.

    Args:
        config: of the runs; ``seeds`` replaces its seed.
        cohort: the slices; its images must have ``config.image_size``.
        out: the runs' folders lie in here, named by their ids.
        seeds: default: the configuration's.
        split: that of the configuration, where it was made before: scikit-learn, which makes it,
            is not needed then.

    Raises:
        ValueError: images of another size, or a folder that holds another run.
        fp4jax.train.DivergedError: a loss that is not finite.
        OSError: a disk that is full or read-only.
    """
    check_size(config, cohort)
    digest = fingerprint(cohort)["sha256"]
    split = split or split_of(config, cohort)
    configs = [dataclasses.replace(config, seed=s) for s in dict.fromkeys(seeds or [config.seed])]
    folders = [RunFolder(out / c.id(digest)) for c in configs]
    for c, folder in zip(configs, folders, strict=True):
        folder.open(c.identity(digest))
    # Which runs share a vmap follows from the command alone, not from what is left to do.
    together = jax.default_backend() != "cpu" and len(configs) > 1
    groups = [range(len(configs))] if together else [[i] for i in range(len(configs))]
    steps = config.epochs * steps_per_epoch(len(places(cohort, split.train)), config.batch_size)
    program = None
    for group in groups:
        if all(folders[i].summary() for i in group):
            continue
        lanes = len(group) if together else None
        program = program or Program(config, len(cohort.channels), steps, lanes)
        members = [(configs[i], folders[i]) for i in group]
        _train_group(program, cohort, split, members)
    return folders


def _train_group(
    program: Program,
    cohort: Cohort,
    split: Split,
    members: Sequence[tuple[RunConfig, RunFolder]],
) -> None:
    config = program.config
    runs = [Run.of(c, folder) for c, folder in members]
    try:
        per_epoch = steps_per_epoch(len(places(cohort, split.train)), config.batch_size)
        done = min(max(run.checkpoints.epochs(), default=0) for run in runs)
        name = f"{config.arch} {config.scale} {config.recipe}"
        with progress_bar(name, config.epochs * per_epoch, done * per_epoch) as listener:
            best = Fit(program, cohort, split, runs, listener)()
        for (c, folder), run, (params, stats) in zip(members, runs, best, strict=True):
            scores = evaluate(program, params, stats, cohort, split, folder)
            folder.write_summary(
                {
                    "schema": SCHEMA,
                    **dataclasses.asdict(c.resolved()),
                    "parameters": sum(int(np.size(p)) for p in jax.tree.leaves(params)),
                    "best_epoch": run.stopping.best_epoch,
                    "epochs_run": run.epoch,
                    "ended": run.ended or "last epoch",
                    "train_seconds": round(run.seconds, 3),
                    "lanes": len(runs),
                    "device": jax.devices()[0].device_kind,
                    **scores,
                }
            )
    finally:
        for run in runs:
            run.checkpoints.close()
