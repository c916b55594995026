"""A packed model as an artifact of ``jax.export``, and how long JAX promises to read it."""
