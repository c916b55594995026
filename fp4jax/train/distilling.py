"""The teachers of a group that is distilled, and how much their divergence weighs."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fp4jax import losses
from fp4jax.train.best import read_best
from fp4jax.train.folder import RunFolder
from fp4jax.train.lane import Lane
from fp4jax.train.program import Program, program_of
from fp4jax.train.state import Teacher
from fp4jax.train.task import Data

# How many batches the weight of a distillation is found from.
_BATCHES = 10


def teachers_of(
    program: Program, lanes: Sequence[Lane], folders: Sequence[RunFolder], data: Data
) -> list[Teacher]:
    """The trained baseline of each lane.

    Args:
        program: of the students.
        lanes: the students.
        folders: the finished baseline of each.
        data: of all of them.
    """
    config = program.config
    like = program_of(config.teacher(), len(data.channels), len(data.regions)).abstract()
    taught = []
    for lane, folder in zip(lanes, folders, strict=True):
        params, stats = read_best(folder.path, (like.params, like.stats))
        weight = config.distill_weight
        if config.distill_ratio is not None:
            weight = _calibrated(program, lane, Teacher(params, stats, jnp.float32(weight)))
        taught.append(Teacher(params, stats, jnp.float32(weight)))
    return taught


def _calibrated(program: Program, lane: Lane, teacher: Teacher) -> float:
    """The weight at which distillation is ``distill_ratio`` of the loss of new parameters."""
    config = program.config
    fresh = program.start(lane.config.seed)
    values: list[Any] = []
    batches = lane.feed.batches(1)
    for images, targets, _ in batches:
        values.append(program.divergence((fresh.params, fresh.stats), images, targets, teacher))
        if len(values) == _BATCHES:
            break
    close = getattr(batches, "close", None)
    if close is not None:
        close()
    task, divergence = np.mean([[float(v) for v in pair] for pair in values], axis=0).tolist()
    ratio: Any = config.distill_ratio
    return losses.distillation_weight(ratio, task, divergence, config.temperature)
