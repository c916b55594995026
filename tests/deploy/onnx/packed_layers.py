"""Small packed layers and models to write."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax import models, nnx as fp4nnx


def images(*shape: int) -> np.ndarray:
    """Two examples of unlike ranges."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(2, *shape)).astype(np.float32) * np.float32([1, 8]).reshape(
        2, *(1,) * len(shape)
    )


def packed(
    model: Any,
    recipe: str,
    calibrated: np.ndarray | None = None,
    keep: Any = (),
    attention: str | None = None,
) -> Any:
    """A model in evaluation mode, packed, with static scales if images are given."""
    fp4nnx.apply_recipe(model, recipe, keep=keep, attention=attention)
    model.eval()
    if calibrated is not None:
        fp4nnx.calibrate(model, [jnp.asarray(calibrated)])
    return fp4nnx.pack(model)


def network(
    arch: str,
    size: Any,
    recipe: str,
    *,
    static: bool = False,
    attention: str | None = None,
    **options: Any,
) -> Any:
    """A packed network of random weights, and its images."""
    model = models.create(arch, image_size=size, rngs=nnx.Rngs(0), **options)
    dims = options.get("spatial_dims", 2)
    shape = (*(size if isinstance(size, tuple) else (size,) * dims), 3)
    x = images(*shape)
    return packed(model, recipe, x if static else None, model.high_precision, attention), x


def alone(model: Any, x: np.ndarray) -> np.ndarray:
    """What a model computes of each example as if there were no others."""
    graph, state = nnx.split(model)
    call = jax.jit(lambda state, image: nnx.merge(graph, state)(image))
    return np.concatenate([np.asarray(call(state, x[i : i + 1])) for i in range(len(x))])
