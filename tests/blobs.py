"""A cohort small enough to train on in seconds, and a run that a test can kill."""

import sys
from pathlib import Path

import numpy as np

from fp4jax.data import Cohort
from fp4jax.train import RunConfig

TINY = {"stages": 2, "channels": 16}


def cohort(patients: int = 12, slices: int = 4, size: int = 32) -> Cohort:
    """Noise with one bright disk in two of three slices, which is the lesion."""
    rng = np.random.default_rng(0)
    n = patients * slices
    row, column = np.mgrid[:size, :size]
    images = rng.integers(0, 120, (n, size, size, 3), dtype=np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    for i in range(n):
        if i % 3:
            y, x = rng.uniform(8, size - 8, 2)
            masks[i] = (row - y) ** 2 + (column - x) ** 2 < rng.uniform(3, 6) ** 2
            images[i][masks[i] > 0] += 100
    return Cohort(
        images=images,
        masks=masks,
        patient_ids=np.repeat([f"p{i:02}" for i in range(patients)], slices),
        slice_index=np.tile(np.arange(slices, dtype=np.int32), patients),
        name="blobs",
        channels=("a", "b", "c"),
    )


def config(**changes) -> RunConfig:
    """A stochastic recipe on a tiny CNN; without augmentation, which takes long to compile."""
    return RunConfig(
        **{
            "arch": "cnn",
            "recipe": "2d+rht+sr",
            "model_options": TINY,
            "data": "blobs",
            "image_size": 32,
            "batch_size": 8,
            "epochs": 6,
            "learning_rate": 3e-3,
            "augment": False,
            **changes,
        }
    )


if __name__ == "__main__":
    # python -m tests.blobs OUT CACHE: trains one run, for tests that kill the process
    import jax

    from fp4jax.train import train

    jax.config.update("jax_compilation_cache_dir", sys.argv[2])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # All that must repeat bit for bit is in it.
    train(config(augment=True), cohort(), Path(sys.argv[1]))
