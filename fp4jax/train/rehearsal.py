"""What a run would cost: data, parameters, multiply-adds, precision of each layer, memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.data import Cohort
from fp4jax.train import scale_options
from fp4jax.train.config import RunConfig
from fp4jax.train.member import bound
from fp4jax.train.program import Program, build
from fp4jax.train.state import Batch
from fp4jax.train.task import Data

_MB = 1e6


def dry_run(config: RunConfig, data: Data | Cohort | None = None) -> str:
    """A text about a run; compiles its training step and computes nothing.

    Args:
        config: of the run; its checkpoint is not read.
        data: what it would be trained on; files are looked at, and the split is made. Without any
            the task says what is usual.

    Raises:
        ValueError: data, a model or options that do not fit.

    Example:
        >>> from fp4jax.data import phantom
        >>> from fp4jax.train import Slices
        >>> cohort = phantom.load(patients=20, slices=4, image_size=32, cache=False)
        >>> small = {"stages": 2, "channels": 16}
        >>> data = Slices(image_size=32)
        >>> run = RunConfig(data, arch="cnn", batch_size=2, model_options=small)
        >>> print(dry_run(run, cohort).splitlines()[2])
        patients: 16 train, 2 val, 2 test
    """
    config = config.resolved()
    found, steps, names = _of_data(config, data)
    channels, regions = map(len, names)
    model = nnx.eval_shape(lambda: build(config, channels, regions, 0))
    macs = models.macs(model, config.data.model_arguments(config)["image_size"])
    report = fp4nnx.report(model)
    quantized = sum(macs.get(layer.path, 0) for layer in report.quantized)
    total = sum(macs.values())
    program = Program(config, channels, regions)
    state = program.abstract()
    size: Any = config.batch_size
    batch = batch_of(config, channels, regions)
    memory = program.step.lower(state, batch).compile().memory_analysis()
    lines = [
        *found,
        str(report),
        f"compute: {total / 1e9:.3f} GMAC per example forward "
        f"({6 * total * size / 1e9:.1f} GFLOP per training step of "
        f"{size}), {quantized / max(total, 1):.1%} of it quantized",
        f"state: {_bytes(state) / _MB:.1f} MB (parameters, optimizer, batch norm)",
        f"batch: {_bytes(batch) / _MB:.1f} MB a step",
    ]
    if memory is not None:
        lines.append(f"training step: {memory.temp_size_in_bytes / _MB:.0f} MB beside the state")
    lines.append(
        f"training: {config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule}, batch {config.batch_size}, at most {config.epochs} epochs{steps}, "
        f"{config.dtype}"
    )
    return "\n".join(lines)


def _of_data(config: RunConfig, data: Data | Cohort | None):
    """(lines about the data, text about the steps of an epoch, (channels, regions))."""
    if data is None:
        channels, regions = config.data.assumed()
        names = f"channels {', '.join(channels)}; segmented: {', '.join(regions)}"
        return [f"data: none were named; as if they had the {names}"], "", (channels, regions)
    data = bound(config, data)
    split = data.split(config)
    steps = data.feed(config, split.train, config.seed).steps
    if config.warm_start_steps:
        scale_options.check_steps(config, steps)
    parts = ((name, getattr(split, name)) for name in ("train", "val", "test"))
    patients = "patients: " + ", ".join(f"{len(ids)} {name}" for name, ids in parts)
    return [*data.describe(), patients], f" of {steps} steps", (data.channels, data.regions)


def batch_of(config: RunConfig, channels: int, regions: int) -> Batch:
    """Shapes and dtypes of what a step sees."""
    images, targets = config.data.batch(config, channels, regions)
    return Batch(
        images=images,
        targets=targets,
        index=jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        epoch=jax.ShapeDtypeStruct((), jnp.int32),
        rate=jax.ShapeDtypeStruct((), jnp.float32),
    )


def _bytes(tree) -> int:
    return sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in jax.tree.leaves(tree))
