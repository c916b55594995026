"""Which layers of a model run the operation in their slot, found by tracing it once."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from fp4jax.nnx.operations import Op
from fp4jax.nnx.slots import layers


def used_layers(model: nnx.Module, inputs: Sequence[Any]) -> set[str]:
    """Paths of the layers whose operation is called by ``model(*inputs)``.

    Args:
        model: left as it is; a copy without values is traced.
        inputs: arrays or shapes, and whatever else the model takes.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.nnx import apply_recipe
        >>> mlp = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
        >>> used_layers(apply_recipe(mlp, "full"), [jnp.ones((2, 4))])
        {'layers.0'}
    """
    graph, state = nnx.split(model)
    copy: Any = nnx.merge(graph, jax.eval_shape(lambda state: state, state))
    calls = _Calls()
    for layer in layers(copy):
        if layer.operation is not None:
            watched = _Watched(layer.operation, layer.path, calls)
            setattr(layer.module, layer.slot.name, nnx.data(watched))
    graph, state = nnx.split(copy)
    leaves, structure = jax.tree.flatten(tuple(inputs))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]

    def run(state: Any, arrays: Sequence[Any]) -> None:
        given = iter(arrays)
        whole = [next(given) if a else leaf for a, leaf in zip(is_array, leaves, strict=True)]
        nnx.merge(graph, state)(*jax.tree.unflatten(structure, whole))

    jax.eval_shape(run, state, [leaf for a, leaf in zip(is_array, leaves, strict=True) if a])
    return calls.paths


class _Calls:
    """The paths of the operations that were called; compared by identity, so nothing is cached."""

    def __init__(self) -> None:
        self.paths: set[str] = set()


class _Watched(nnx.Module):
    """An operation that notes its calls."""

    def __init__(self, operation: Op, path: str, calls: _Calls):
        self.operation: Any = operation
        self.path, self.calls = path, calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.paths.add(self.path)
        return self.operation(*args, **kwargs)
