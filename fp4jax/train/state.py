"""What a training run carries from step to step: one pytree."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a step changes or depends on; with lanes, every leaf has a leading axis.

    Nothing random is stored: the keys of dropout, rounding and augmentation follow from ``seed``
    and ``step``, or from the epoch and the index of an image.
    """

    # number of finished steps, int32
    step: Any
    # seed of the run, uint32
    seed: Any
    # trainable parameters, float32
    params: Any
    # running statistics of batch norm
    stats: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Teacher:
    """A trained baseline, whose logits a student is held to; with lanes, one per lane."""

    params: Any
    stats: Any
    # of the distillation in the loss, float32
    weight: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    """What one step sees; with lanes, every leaf has a leading axis."""

    # (b, *space, c) as the task stores them
    images: Any
    # (b, *space) or (b, *space, k), 0 or 1
    targets: Any
    # (b,) places of the examples; with seed and epoch they give the augmentation's keys
    index: Any
    # () number of the epoch, int32
    epoch: Any
    # () learning rate, float32
    rate: Any
