"""Rounding keys: one for every quantized operation, refilled in every step."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fp4jax.core import exact
from fp4jax.core.quantizer import check_key
from fp4jax.core.seeds import fold_in
from fp4jax.core.spec import shown
from fp4jax.core.typing import Array
from fp4jax.ops.role_keys import draw

Model = TypeVar("Model", bound=nnx.Module)


class RoundingKey(nnx.Variable):
    """The random key of one quantized operation; see :func:`refresh_keys`."""


class RoundingSeeds(nnx.Variable):
    """What the six operands of an operation draw from its key, uint32 (*stack, 6, 2).

    Kept beside the key, because to draw them for all operations of a model at once makes a step
    that is much smaller, and faster to compile, than one in which every operation draws its own.
    """


def refresh_keys(model: Model, seed: int | Array, step: int | Array) -> Model:
    """Gives every quantized operation its rounding key of this step; call it in the train step.

    key of an operation = fold_in(fold_in(seed, step), hash of its path): repeatable bit for bit,
    different for every step and layer, and nothing to checkpoint. Works on traced seeds and steps,
    under ``vmap``, ``scan`` and remat; a model without stochastic recipe is left as it is. Every
    layer of a stack (``nnx.vmap``, ``nnx.scan``) gets a key of its own. Without a call, every step
    rounds equal inputs with the same bits. Calls of one layer within a step, also in a recurrent
    scan, differ by their inputs: see :mod:`fp4jax.ops.role_keys`.

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
    operations = [
        (dotted(path[:-1]), module)  # the module is an operation, path[:-1] its layer
        for path, module in nnx.iter_modules(model)
        if isinstance(getattr(module, "key", None), RoundingKey)
    ]
    if operations:
        paths, modules = zip(*operations, strict=True)
        keys = _path_keys(of_step, paths, [module.key.get_value().shape for module in modules])
        for module, (key, seeds) in zip(modules, keys, strict=True):
            module.key.set_value(key)
            module.seeds.set_value(seeds)
    return model


def first_key(path: str, stack: tuple[int, ...] = ()) -> tuple[Array, Array]:
    """The key and the seeds of the operation at ``path`` before they are refreshed."""
    ((key, seeds),) = _path_keys(jax.random.key(0), [path], [stack])
    return key, seeds


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


def _path_keys(
    key: Array, paths: Sequence[str], stacks: Sequence[tuple[int, ...]]
) -> list[tuple[Array, Array]]:
    """Key and seeds of the operations at ``paths``; for a stack of layers, one for each layer."""
    checksums = np.asarray([zlib.crc32(path.encode()) for path in paths], np.uint32)
    keys, seeds = _folded(key, checksums)
    keys = [
        jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))
        for data in exact.rows(jax.random.key_data(keys))
    ]
    return [
        _of_stack(own, stack) if stack else (own, drawn)
        for own, drawn, stack in zip(keys, exact.rows(seeds), stacks, strict=True)
    ]


# Jitted, as all keys of a model are made outside of any trace when a recipe is applied.
@jax.jit
def _folded(key: Array, numbers: Array) -> tuple[Array, Array]:
    keys = fold_in(key, numbers)
    # In memory, or XLA draws all of them again for each layer.
    return keys, exact.materialize(draw(keys))


@functools.partial(jax.jit, static_argnums=1)
def _of_stack(key: Array, stack: tuple[int, ...]) -> tuple[Array, Array]:
    keys = jax.random.split(key, stack)
    return keys, draw(keys)


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
