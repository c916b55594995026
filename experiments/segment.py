"""``python -m experiments.segment`` in a source tree: ``fp4jax segment``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("segment")
