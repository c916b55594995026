"""What a run on volumes would cost: parameters, multiply-adds, precision of each layer, memory."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.data.nifti import REGIONS
from fp4jax.data.nifti.brats import MODALITIES
from fp4jax.train.state import Batch
from fp4jax.volumes.config import VolumeRun
from fp4jax.volumes.program import Program, build

_MB = 1e6


def dry_run(config: VolumeRun) -> str:
    """A text about a run; compiles its training step and computes nothing.

    Args:
        config: of the run; its checkpoint is not read. Without modalities and regions it is as on
            BraTS, with four and three.

    Raises:
        ValueError: for an unknown model or options that do not fit.

    Example:
        >>> small = {"stages": 2, "channels": 16}
        >>> run = VolumeRun("cnn", spatial_dims=2, patch_size=(32, 32), model_options=small)
        >>> print(dry_run(run).splitlines()[-1])
        training: adamax, learning rate 0.0005, onecycle, 100 epochs of 250 steps of 2, float32
    """
    config = config.resolved()
    channels, regions = (
        len(names or default)
        for names, default in ((config.modalities, MODALITIES), (config.regions, REGIONS))
    )
    model = nnx.eval_shape(lambda: build(config, channels, regions, 0))
    macs = models.macs(model, config.patch_size)
    report = fp4nnx.report(model)
    quantized = sum(macs.get(layer.path, 0) for layer in report.quantized)
    total = sum(macs.values())
    program = Program(config, channels, regions)
    state = program.abstract()
    b, size = config.batch_size, config.patch_size
    batch = Batch(
        images=jax.ShapeDtypeStruct((b, *size, channels), jnp.float32),
        masks=jax.ShapeDtypeStruct((b, *size, regions), jnp.uint8),
        index=jax.ShapeDtypeStruct((b,), jnp.int32),
        epoch=jax.ShapeDtypeStruct((), jnp.int32),
    )
    memory = program.step.lower(state, batch).compile().memory_analysis()
    lines = [
        str(report),
        f"compute: {total / 1e9:.3f} GMAC per patch forward "
        f"({6 * total * b / 1e9:.1f} GFLOP per training step of {b}), "
        f"{quantized / max(total, 1):.1%} of it quantized",
        f"state: {_bytes(state) / _MB:.1f} MB (parameters, optimizer, batch norm)",
        f"patches: {_bytes(batch) / _MB:.1f} MB a step, {'x'.join(map(str, size))} voxels each",
    ]
    if memory is not None:
        lines.append(f"training step: {memory.temp_size_in_bytes / _MB:.0f} MB beside the state")
    lines.append(
        f"training: {config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule}, {config.epochs} epochs of {config.steps} steps of {b}, {config.dtype}"
    )
    return "\n".join(lines)


def _bytes(tree) -> int:
    return sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in jax.tree.leaves(tree))
