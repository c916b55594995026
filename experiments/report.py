"""``python -m experiments.report`` in a source tree: ``fp4jax report``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("report")
