"""``python -m fp4jax VERB``: the command ``fp4jax`` of this Python."""

from fp4jax.cli.program import main

if __name__ == "__main__":
    main()
