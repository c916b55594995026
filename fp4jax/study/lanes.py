"""Which runs of a group an accelerator trains side by side."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.train.config import RunConfig
from fp4jax.train.fit import room
from fp4jax.train.program import Program, program_of
from fp4jax.train.rehearsal import batch_of
from fp4jax.train.state import TrainState
from fp4jax.train.task import Data

# Of the memory of the device that is left beside the data: XLA's estimate leaves out fragments.
_USABLE = 0.8


def lanes(group: Sequence[RunConfig], data: Data, most: int) -> list[list[RunConfig]]:
    """The group in parts that share a ``vmap``; single runs on CPU, where lanes are slow.

    Folds whose epochs have different numbers of steps share one too: the shorter ones stand still.

    Args:
        group: runs that differ in split and seed alone.
        data: of all of them.
        most: runs of a part.
    """
    if jax.default_backend() == "cpu" or group[0].method == "ptq":
        return [[run] for run in group]
    size = min(most, len(group))
    if size > 1:
        size = min(size, _fitting(group[0], data))
    return [list(group[i : i + size]) for i in range(0, len(group), size)]


def _fitting(run: RunConfig, data: Data) -> int:
    """Number of lanes whose states and activations the device has room for; at least 1."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return 1 << 16
    run = run.resolved()
    program = program_of(run, len(data.channels), len(data.regions))
    state = program.abstract()
    # Shapes alone: nothing goes to the device.
    resident: Any = jax.eval_shape(lambda: data.resident(room()))
    memory = _lowered(program, state, resident, data).compile().memory_analysis()
    temporary = getattr(memory, "temp_size_in_bytes", 0)
    free = _USABLE * (limit - _bytes(resident))
    # a state, the one after the step, and the best parameters
    return max(int(free // (temporary + 3 * _bytes(state))), 1)


def _lowered(program: Program, state: TrainState, resident: Any, data: Data) -> Any:
    """The steps of one run as :class:`fp4jax.train.fit.Fit` calls them."""
    config, step = program.config, (1,)
    if resident is None:
        return program.step.lower(state, batch_of(config, len(data.channels), len(data.regions)))
    index = jax.ShapeDtypeStruct((*step, config.batch_size or 1), jnp.int32)
    kinds = (jnp.int32, jnp.float32, jnp.bool_)
    steps = (index, *(jax.ShapeDtypeStruct(step, kind) for kind in kinds))
    return program.epoch.lower(state, *resident, steps)


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in jax.tree.leaves(tree))
