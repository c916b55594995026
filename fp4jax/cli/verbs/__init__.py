"""The verbs of ``fp4jax VERB``, one module each."""
