"""One compiled pass of a model whose argument says which operands of which layer are quantized."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, Integer, Shaped
from fp4jax.nnx.keys import refresh_keys
from fp4jax.nnx.operations import Op
from fp4jax.nnx.slots import layers
from fp4jax.ops.recipe import ROLES


class Pass(NamedTuple):
    """What a pass gives: the model's outputs and, where there is a loss, its value and gradient."""

    outputs: Any
    loss: Any
    gradient: Any


class Switches(nnx.Variable):
    """Which of the six operands of a layer are quantized, bool (*stack, 6)."""


class _Switched(nnx.Module):
    """An operation with a switch for each operand."""

    def __init__(self, operation: Op, on: Shaped[Array, "*stack 6"]):
        self.operation = nnx.data(operation)
        self.on = Switches(on)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        on = self.on.get_value()
        switches = {role: on[i] for i, role in enumerate(ROLES)}
        return self.operation(*args, **kwargs, switches=switches)


class Program:
    """A model that holds a recipe, as a function of switches; compiled at its first call.

    Args:
        model: left as it is.
        paths: of the layers that have switches, in the order of their rows.
        loss: of (outputs, targets), a scalar; None for the forward pass alone.
    """

    def __init__(self, model: nnx.Module, paths: tuple[str, ...], loss: Callable | None):
        self._graph, self._params, self._rest = nnx.split(model, nnx.Param, ...)
        self._paths, self._loss = paths, loss

    def __call__(
        self,
        on: Shaped[Array, "layers 6"],
        inputs: tuple[Any, ...],
        targets: Any,
        step: int | Integer[Array, ""],
    ) -> Pass:
        """A pass on a batch; ``step`` decides the random bits of stochastic rounding."""
        static = self._graph, self._paths, self._loss
        return _run(*static, self._params, self._rest, on, inputs, targets, jnp.int32(step))


# Cached by what is static: the same model with other weights is not compiled again.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    graph: Any,
    paths: tuple[str, ...],
    loss: Callable | None,
    params: Any,
    rest: Any,
    on: Shaped[Array, "layers 6"],
    inputs: tuple[Any, ...],
    targets: Any,
    step: Array,
) -> Pass:
    def forward(params: Any) -> Any:
        model: Any = nnx.merge(graph, params, rest, copy=True)
        refresh_keys(model, 0, step)
        _install(model, paths, on)
        return model(*inputs)

    if loss is None:
        return Pass(forward(params), None, None)

    def loss_of(params: Any) -> tuple[Array, Any]:
        outputs = forward(params)
        return loss(outputs, targets), outputs

    (value, outputs), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    return Pass(outputs, value, gradient)


def _install(model: nnx.Module, paths: tuple[str, ...], on: Shaped[Array, "layers 6"]) -> None:
    """Puts the switches of each layer around its operation."""
    # After refresh_keys, which knows an operation by its place.
    for layer in layers(model):
        if layer.path in paths and layer.operation is not None:
            own = on[paths.index(layer.path)]
            own = jnp.broadcast_to(own, (*layer.stack, len(ROLES)))
            layer.inject(_Switched(layer.operation, own))
