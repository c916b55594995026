"""A cohort small enough to train on in seconds, and a process to be killed that trains on it."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from fp4jax.data import Cohort
from fp4jax.study import Study, execute
from fp4jax.train import Options, RunConfig, Saving, Slices, train

TINY = {"stages": 2, "channels": 16}
#: A checkpoint after every epoch, which is seldom older than a kill.
OFTEN = Options(saving=Saving(epochs=1))
_OF_DATA = {field.name for field in dataclasses.fields(Slices)}


def cohort(patients: int = 12, slices: int = 4, size: int = 32, seed: int = 0) -> Cohort:
    """Noise with one bright disk in two of three slices, which is the lesion."""
    rng = np.random.default_rng(seed)
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
    """A stochastic recipe on a tiny CNN; without augmentation, which takes long to compile.

    ``changes`` are fields of RunConfig or of its Slices.
    """
    own = {name: changes.pop(name) for name in _OF_DATA & changes.keys()}
    return RunConfig(
        **{
            "data": Slices(**{"cohort": "blobs", "image_size": 32, "augment": False, **own}),
            "arch": "cnn",
            "recipe": "2d+rht+sr",
            "model_options": TINY,
            "batch_size": 8,
            "epochs": 6,
            "learning_rate": 3e-3,
            **changes,
        }
    )


def study() -> Study:
    """Six runs, with augmentation: all that must repeat bit for bit is in them."""
    of_run = ("model_options", "batch_size", "learning_rate")
    # Epochs enough that it is not over before it has been killed twenty times.
    shared = {"epochs": 40, **{name: getattr(config(), name) for name in of_run}}
    data = config(augment=True).data
    return Study(data, archs=("cnn",), recipes=("0", "1", "5"), seeds=(1, 2), **shared)


def main(out: str, cache: str, *seeds: str) -> None:
    """Trains a run per seed, or all of the study."""
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if seeds == ("study",):
        execute(study(), cohort(), Path(out), saving=OFTEN.saving)
    else:
        train(config(), cohort(), Path(out), [*map(int, seeds)] or None, options=OFTEN)


if __name__ == "__main__":
    # python -m tests.blobs OUT CACHE [study | SEED ...]
    main(*sys.argv[1:])
