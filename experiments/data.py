"""``python -m experiments.data`` in a source tree: ``fp4jax data``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("data")
