"""``python -m experiments.study`` in a source tree: ``fp4jax study``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("study")
