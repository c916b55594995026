"""``python -m experiments.train_volumes`` in a source tree: ``fp4jax train-volumes``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("train-volumes")
