"""``python -m experiments.diagnose`` in a source tree: ``fp4jax diagnose``."""

from fp4jax.cli.program import run

if __name__ == "__main__":
    run("diagnose")
