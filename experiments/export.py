"""``python -m experiments.export`` in a source tree: ``fp4jax export``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("export")
