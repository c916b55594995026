"""Initial values of NumPy's: JAX's own compile a program for each shape of a kernel."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def kernel(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32, out_sharding: Any = None
) -> jax.Array:
    """An initializer: normal, with a variance of one over the number of inputs; key is not used."""
    values = np.random.default_rng(shape).standard_normal(shape) / math.sqrt(
        math.prod(shape[:-1]) or 1
    )
    return jnp.asarray(values, dtype)


def filled(build: Callable[[], nnx.Module]) -> nnx.Module:
    """What ``build`` makes, with such kernels, and with norms and biases that change something."""
    model = nnx.eval_shape(build)
    rng = np.random.default_rng(0)

    def value(path: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), like.shape)
        if jnp.issubdtype(like.dtype, jnp.integer):
            return jnp.zeros(like.shape, like.dtype)
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            return kernel(jax.random.key(0), like.shape, like.dtype)
        if "scale" in name or "var" in name:
            return jnp.asarray(rng.uniform(0.8, 1.2, like.shape), like.dtype)
        return jnp.asarray(0.1 * rng.standard_normal(like.shape), like.dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(value, nnx.state(model)))
    return model
