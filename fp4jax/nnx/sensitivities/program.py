"""One compiled pass of a model whose argument says which operands of which layer are quantized."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.core.typing import Array, Integer, Shaped
from fp4jax.nnx.attention_slots import attention_slots
from fp4jax.nnx.keys import refresh_keys
from fp4jax.nnx.operations import AttentionOp, Op
from fp4jax.nnx.slots import layers
from fp4jax.ops.attention_given import ATTENTION_ROLES
from fp4jax.ops.recipe import ROLES


class Pass(NamedTuple):
    """What a pass gives: the model's outputs and, where there is a loss, its value and gradient."""

    outputs: Any
    loss: Any
    gradient: Any


#: Operands of a candidate: a layer's six, or the twelve of an attention's two products.
WIDTH = len(ATTENTION_ROLES)


def roles_of(operation: Op) -> tuple[str, ...]:
    """The operands of an operation, in the order of its switches."""
    return ATTENTION_ROLES if isinstance(operation, AttentionOp) else ROLES


class Switches(nnx.Variable):
    """Which operands of a candidate are quantized, bool (*stack, 12); of a layer the first six."""


class _Switched(nnx.Module):
    """An operation with a switch for each operand."""

    def __init__(self, operation: Op, on: Shaped[Array, "*stack 12"]):
        self.operation = nnx.data(operation)
        self.on = Switches(jnp.broadcast_to(on, (*operation.stack, WIDTH)))

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        on = self.on.get_value()
        switches = {role: on[i] for i, role in enumerate(roles_of(self.operation))}
        return self.operation(*args, **kwargs, switches=switches)


class Program:
    """A model that holds a recipe, as a function of switches; compiled at its first call.

    Args:
        model: left as it is.
        paths: of the layers and attentions that have switches, in the order of their rows.
        loss: of (outputs, targets), a scalar; None for the forward pass alone.
    """

    def __init__(self, model: nnx.Module, paths: tuple[str, ...], loss: Callable | None):
        self._graph, self._params, self._rest = nnx.split(model, nnx.Param, ...)
        self._paths, self._loss = paths, loss

    def __call__(
        self,
        on: Shaped[Array, "candidates 12"],
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
    on: Shaped[Array, "candidates 12"],
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


def _install(model: nnx.Module, paths: tuple[str, ...], on: Shaped[Array, "candidates 12"]) -> None:
    """Puts the switches of each candidate around its operation."""
    # After refresh_keys, which knows an operation by its place.
    places = [(layer.path, layer.operation, layer.inject) for layer in layers(model)]
    places += [(slot.path, slot.operation, slot.put) for slot in attention_slots(model)]
    for path, operation, put in places:
        if path in paths and operation is not None:
            put(_Switched(operation, on[paths.index(path)]))
