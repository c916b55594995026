"""python -m tests.study.small_study OUT SEED ...: a study in a process of its own, to be killed."""

import sys
from pathlib import Path

import jax

from fp4jax.cli import compilation_cache
from fp4jax.study import Study, execute
from tests import blobs


def main(out: Path, seeds: tuple[int, ...]) -> None:
    """Two recipes, two epochs, a checkpoint after each."""
    compilation_cache.use(Path(sys.prefix) / "jax-cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = blobs.config()
    study = Study(
        config.data,
        archs=("cnn",),
        recipes=("baseline", "2d+rht+sr"),
        seeds=seeds,
        epochs=3,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        model_options=config.model_options,
    )
    outcome = execute(study, blobs.cohort(), out, saving=blobs.OFTEN.saving)
    print("finished", len(outcome.folders), "failures", len(outcome.failures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])))
