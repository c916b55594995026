"""Rounding keys: one for every quantized operation, refilled in every step."""

import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.quantizer import check_key
from fp4jax.core.spec import shown
from fp4jax.core.typing import Array

Model = TypeVar("Model", bound=nnx.Module)


class RoundingKey(nnx.Variable):
    """The random key of one quantized operation; see :func:`refresh_keys`."""


def refresh_keys(model: Model, seed: int | Array, step: int | Array) -> Model:
    """Gives every quantized operation its rounding key of this step; call it in the train step.

    key of an operation = fold_in(fold_in(seed, step), hash of its path): repeatable bit for bit,
    different for every step and layer, and nothing to checkpoint. Works on traced seeds and steps,
    under ``vmap``, ``scan`` and remat; a model without stochastic recipe is left as it is. Every
    layer of a stack (``nnx.vmap``, ``nnx.scan``) gets a key of its own. Without a call, every step
    rounds equal inputs with the same bits. Calls of one layer within a step, also in a recurrent
    scan, differ by their inputs: see :mod:`fp4jax.nnx.call_key`.

    Args:
        model: changed in place.
        seed: an int, or a ``jax.random`` key.
        step: number of the step, an integer.

    Returns:
        The model.

    Raises:
        ValueError: for anything but an NNX model, an integer or key as seed, and an integer step.

    Example:
        >>> from flax import nnx
        >>> from fp4jax.nnx import apply_recipe
        >>> model = apply_recipe(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), "sr")
        >>> model = refresh_keys(model, seed=2026, step=3)
    """
    check_model(model)
    of_step = _step_key(seed, step)
    for path, module in nnx.iter_modules(model):
        key = getattr(module, "key", None)
        if isinstance(key, RoundingKey):
            # The module is an operation, path[:-1] its layer.
            key.set_value(_path_key(of_step, dotted(path[:-1]), key.get_value().shape))
    return model


def first_key(path: str, stack: tuple[int, ...] = ()) -> Array:
    """The key of the operation at ``path`` before it is refreshed."""
    return _path_key(jax.random.key(0), path, stack)


def dotted(path: Sequence[Any]) -> str:
    """A module's path as text."""
    return ".".join(map(str, path))


def check_model(model: Any) -> None:
    """ValueError for anything but an NNX model."""
    if not isinstance(model, nnx.Module):
        raise ValueError(
            f"model is a {type(model).__name__}; fp4jax.nnx takes a flax.nnx.Module (for Linen "
            "see fp4jax.linen)."
        )


def _path_key(key: Array, path: str, stack: tuple[int, ...]) -> Array:
    """The key of the operation at ``path``; for a stack of layers, one for each."""
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return jax.random.split(key, stack) if stack else key


def _step_key(seed: Any, step: Any) -> Array:
    if not _is_integer(step):
        raise ValueError(f"step is {shown(step)}; give an integer.")
    if _is_integer(seed):
        key = jax.random.key(seed)
    else:
        check_key(seed, "seed")
        # Layers hold typed keys; a raw one has a dimension more.
        key = jax.random.wrap_key_data(seed) if seed.ndim else seed
    return jax.random.fold_in(key, step)


def _is_integer(value: Any) -> bool:
    if hasattr(value, "dtype"):
        return value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
    return isinstance(value, int)
