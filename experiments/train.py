"""``python -m experiments.train`` in a source tree: ``fp4jax train``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("train")
