"""``python -m experiments.targets`` in a source tree: ``fp4jax targets``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("targets")
