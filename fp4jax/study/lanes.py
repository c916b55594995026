"""Which runs of a group an accelerator trains side by side."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fp4jax.data import Cohort
from fp4jax.train.config import RunConfig
from fp4jax.train.loop import places, steps_per_epoch
from fp4jax.train.parts import split_of
from fp4jax.train.program import Program

# Of the memory of the device that is left beside the cohort: XLA's estimate leaves out fragments.
_USABLE = 0.8


def lanes(group: Sequence[RunConfig], cohort: Cohort, most: int) -> list[list[RunConfig]]:
    """The group in parts that share a ``vmap``; single runs on CPU, where lanes are slow.

    Runs of one part take the same number of steps in an epoch. What is finished plays no role, so
    that an interrupted study forms the same parts when it is called again.
    """
    if jax.default_backend() == "cpu" or group[0].method == "ptq":
        return [[run] for run in group]
    by_steps: dict[int, list[RunConfig]] = {}
    for run in group:
        train = places(cohort, split_of(run, cohort).train)
        by_steps.setdefault(steps_per_epoch(len(train), run.batch_size), []).append(run)
    parts = []
    for steps, runs in by_steps.items():
        most = min(most, len(runs))
        if most > 1:
            most = min(most, _fitting(runs[0], cohort, steps))
        parts += [runs[i : i + most] for i in range(0, len(runs), most)]
    return parts


def _fitting(run: RunConfig, cohort: Cohort, steps: int) -> int:
    """Number of lanes whose states and activations the device has room for; at least 1."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return len(cohort)
    program = Program(run, len(cohort.channels), max(steps, 1))
    state = jax.eval_shape(program.start, jnp.zeros((), jnp.uint32))
    images = jax.ShapeDtypeStruct(cohort.images.shape, jnp.uint8)
    masks = jax.ShapeDtypeStruct(cohort.masks.shape, jnp.uint8)
    order = jax.ShapeDtypeStruct((1, run.batch_size), jnp.int32)
    epoch, active = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool_)
    memory = program.epoch.lower(state, images, masks, order, epoch, active).compile()
    temporary = getattr(memory.memory_analysis(), "temp_size_in_bytes", 0)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    room = _USABLE * (stats["bytes_limit"] - cohort.images.nbytes - cohort.masks.nbytes)
    # a state, the one after the step, and the best parameters
    return max(int(room // (temporary + 3 * held)), 1)
