"""``python -m experiments.predict`` in a source tree: ``fp4jax predict``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("predict")
