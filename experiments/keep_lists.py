"""``python -m experiments.keep_lists`` in a source tree: ``fp4jax keep-lists``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("keep-lists")
