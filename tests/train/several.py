"""One process of a training by several, to be started, killed and started again.

    python -m tests.train.several KIND OUT RANK PORT [STEP]

KIND is a key of ``KINDS``. At its step STEP the process kills itself. PORT 0: there is no other
process, and this one has two devices.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

from fp4jax import models
from fp4jax.train import (
    Devices,
    Hosts,
    Options,
    RunConfig,
    Saving,
    Source,
    Volumes,
    hosts,
    register_task,
    train,
)
from tests import blobs
from tests.train.test_own_task import DotData, Dots

ROOT = Path(__file__).parents[2]
#: Often, so that little is repeated.
SAVING = Saving(epochs=1)


class Tiny(nnx.Module):
    """A quantized convolution and a batch norm: quick to compile."""

    scales: ClassVar = {"tiny": {}}
    high_precision = (r"head$",)

    def __init__(self, *, in_channels, num_classes, image_size, rngs, dtype=None):
        self.inner = nnx.Conv(in_channels, 16, (1, 1), rngs=rngs, dtype=dtype)
        self.norm = nnx.BatchNorm(16, rngs=rngs, dtype=dtype)
        self.head = nnx.Conv(16, num_classes, (1, 1), rngs=rngs, dtype=dtype)

    def __call__(self, x, rngs=None):
        return self.head(jax.nn.relu(self.norm(self.inner(x))))


def dots(folder: Path) -> tuple[RunConfig, DotData]:
    """A task whose scores cannot be divided: the first process works them out."""
    if "several-tiny" not in models.names():
        models.register("several-tiny", Tiny)
    register_task("dots", Dots)
    task = Dots(size=8)
    config = RunConfig(
        task,
        arch="several-tiny",
        scale="tiny",
        recipe="2d+rht+sr",
        epochs=3,
        learning_rate=1e-2,
    )
    return config, task.open(Source())


def slices(folder: Path) -> tuple[RunConfig, Any]:
    """A convolutional network with batch norm, augmented."""
    config = blobs.config(epochs=3, augment=True)
    return config, config.data.bind(blobs.cohort())  # pyright: ignore


def volumes(folder: Path) -> tuple[RunConfig, Any]:
    """Patches of six phantom patients, drawn by each process for itself."""
    root = folder.parent / "nifti"
    small = {"patch_size": (24, 24, 16), "steps": 4, "val_share": 0.2, "test_share": 0.4}
    config = RunConfig(
        Volumes(**small),  # pyright: ignore
        arch="unet",
        scale="monai",
        recipe="2d+rht+sr",
        model_options={"channels": "8,16", "strides": "2,"},
        epochs=3,
        learning_rate=3e-3,
    )
    return config, config.data.open(Source(root, cache=folder.parent / "prepared"))


KINDS = {"dots": dots, "slices": slices, "volumes": volumes}


def alone(kind: str, folder: Path, devices: Devices | None = None):
    """The run, trained in this process."""
    config, data = KINDS[kind](folder)
    options = Options(saving=SAVING, progress=False, devices=devices)
    (run,) = train(config, data, folder, options=options)
    return run


def start(kind: str, out: Path, rank: int, port: int, *more: object) -> subprocess.Popen:
    """A process of its own, of two or alone."""
    words = map(str, (kind, out, rank, port, *more))
    command = [sys.executable, "-W", "error", "-m", "tests.train.several", *words]
    few = str(jax.config.read("jax_disable_most_optimizations"))
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": few, "XLA_FLAGS": ""}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def die_at(step: int) -> None:
    """This process is killed when it has begun so many steps."""
    flags, taken = Devices.flags, [0]

    def counted(self: Devices, value: bool) -> jax.Array:
        taken[0] += 1
        if taken[0] > step:
            os.kill(os.getpid(), signal.SIGKILL)
        return flags(self, value)

    Devices.flags = counted  # pyright: ignore


def wait_at_each_step(seconds: float) -> None:
    """A training that lasts a while."""
    flags = Devices.flags

    def waiting(self: Devices, value: bool) -> jax.Array:
        time.sleep(seconds)
        return flags(self, value)

    Devices.flags = waiting  # pyright: ignore


def main(kind: str, out: str, rank: str, port: str, step: str = "") -> None:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if port == "0":
        jax.config.update("jax_num_cpu_devices", 2)
        alone(kind, Path(out), Devices.of())
        return
    if step:
        die_at(int(step))
    try:
        with hosts.joined(Hosts(f"127.0.0.1:{port}", int(rank), 2, heartbeat=30)) as devices:
            # Fewer than one each, one each, and more of one.
            for count in (1, 2, 5):
                items = list(range(count))
                squares = [np.square(item) for item in devices.own(items)]
                assert devices.together(squares) == [item**2 for item in items]
            alone(kind, Path(out), devices)
    except Exception as error:
        traceback.print_exception(error)
        hosts.leave(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
