"""``python -m experiments.evaluate`` in a source tree: ``fp4jax evaluate``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("evaluate")
