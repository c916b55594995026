"""Runs from start to end: folder, training, evaluation of the best epoch, summary, pictures."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax import metrics
from fp4jax.data import Cohort, Split, fingerprint, patient_holdout, patient_kfold
from fp4jax.train.checkpoint import Checkpoints
from fp4jax.train.config import RunConfig
from fp4jax.train.console import progress_bar
from fp4jax.train.folder import RunFolder
from fp4jax.train.loop import Arrays, Fit, Run, padded_batches, places, steps_per_epoch
from fp4jax.train.program import Program

def split_of(config: RunConfig, cohort: Cohort) -> Split:
    """The patients of a run's training, validation and test part."""
    if config.fold is None:
        return patient_holdout(cohort, seed=config.split_seed)
    return patient_kfold(cohort, folds=config.folds, seed=config.split_seed)[config.fold]


def train(
    config: RunConfig, cohort: Cohort, out: Path, seeds: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Trains a run per seed, evaluates each, and returns their summaries.

    Finished runs are not repeated, unfinished ones go on from their last checkpoint. All seeds
    share one compilation; on accelerators they are lanes of one ``vmap``.

    Args:
        config: of the runs; ``seeds`` replaces its seed.
        cohort: the slices; its images must have ``config.image_size``.
        out: the runs' folders lie in here, named by their ids.
        seeds: default: the configuration's.

    Raises:
        ValueError: images of another size, or a folder that holds another run.
        fp4jax.train.loop.Diverged: a loss that is not finite.
        OSError: a disk that is full or read-only.
    """
    _check_size(config, cohort)
    digest = fingerprint(cohort)["sha256"]
    split = split_of(config, cohort)
    configs = [dataclasses.replace(config, seed=s) for s in dict.fromkeys(seeds or [config.seed])]
    folders = [RunFolder(out / c.id(digest)) for c in configs]
    for c, folder in zip(configs, folders, strict=True):
        folder.open(c.identity(digest))
    # Which runs share a vmap follows from the command alone, not from what is left to do.
    together = jax.default_backend() != "cpu" and len(configs) > 1
    groups = [range(len(configs))] if together else [[i] for i in range(len(configs))]
    program = None
    for group in groups:
        if all(folders[i].summary() for i in group):
            continue
        steps = steps_per_epoch(len(places(cohort, split.train)), config.batch_size)
        program = program or Program(
            config, len(cohort.channels), steps * config.epochs, len(group) if together else None
        )
        _train_group(program, cohort, split, [configs[i] for i in group], [folders[i] for i in group])
    return [folder.summary() or {} for folder in folders]
