"""What a run would cost: parameters, multiply-adds, precision of each layer, memory."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.train.config import RunConfig
from fp4jax.train.program import Program, build
from fp4jax.train.state import Batch

_MB = 1e6


def dry_run(config: RunConfig, channels: int = 3) -> str:
    """A text about a run; compiles its training step and computes nothing.

    Args:
        config: of the run.
        channels: of its images.

    Raises:
        ValueError: for an unknown model or options that do not fit.

    Example:
        >>> small = {"stages": 2, "channels": 16}
        >>> run = RunConfig(arch="cnn", image_size=32, batch_size=2, model_options=small)
        >>> print(dry_run(run).splitlines()[-1])
        training: adamax, learning rate 0.0005, plateau, batch 2, at most 100 epochs, float32
    """
    config = config.resolved()
    model = nnx.eval_shape(lambda: build(config, channels, 0))
    macs = models.macs(model, config.image_size)
    report = fp4nnx.report(model)
    quantized = sum(macs.get(layer.path, 0) for layer in report.quantized)
    total = sum(macs.values())
    program = Program(config, channels, steps=config.epochs)
    state = jax.eval_shape(program.init, jnp.zeros((), jnp.uint32))
    b, size = config.batch_size, config.image_size
    batch = Batch(
        images=jax.ShapeDtypeStruct((b, size, size, channels), jnp.uint8),
        masks=jax.ShapeDtypeStruct((b, size, size), jnp.uint8),
        index=jax.ShapeDtypeStruct((b,), jnp.int32),
        epoch=jax.ShapeDtypeStruct((), jnp.int32),
    )
    memory = program.step.lower(state, batch).compile().memory_analysis()
    lines = [
        str(report),
        f"compute: {total / 1e9:.3f} GMAC per image forward "
        f"({6 * total * b / 1e9:.1f} GFLOP per training step of {b}), "
        f"{quantized / max(total, 1):.1%} of it quantized",
        f"state: {_bytes(state) / _MB:.1f} MB (parameters, optimizer, batch norm)",
        f"images: {size * size * (channels + 1) / _MB:.3f} MB a slice with its mask, as uint8",
    ]
    if memory is not None:
        lines.append(f"training step: {memory.temp_size_in_bytes / _MB:.0f} MB beside the state")
    lines.append(
        f"training: {config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule}, batch {b}, at most {config.epochs} epochs, {config.dtype}"
    )
    return "\n".join(lines)


def _bytes(tree) -> int:
    return sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in jax.tree.leaves(tree))
