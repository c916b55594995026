"""``python -m experiments.claims`` in a source tree: ``fp4jax claims``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("claims")
