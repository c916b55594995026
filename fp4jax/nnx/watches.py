"""Watches: modules in an operation that see x of every call as it is quantized.

``watch(x, spec, axes, amax)`` returns the amax that x is quantized by, given the one that the
layer has (None before it has any). What it saw is in its variables, so that it works wherever
batch norm's running statistics do.
"""

import abc
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax

from fp4jax.core.hooks import known
from fp4jax.core.spec import TensorSpec
from fp4jax.core.typing import Array, Float
from fp4jax.nnx.amax_variables import OperandAmax
from fp4jax.ops import gemm
from fp4jax.ops.gemm import BlockAxes

Stack = tuple[int, ...]


class AmaxWatch(nnx.Module):
    """Notes the largest amax since the last :meth:`advance`, while the model trains.

    Args:
        stack: leading dimensions of a stack of layers.
    """

    def __init__(self, stack: Stack = ()):
        self.seen = OperandAmax(jnp.zeros(stack))
        # nnx.Module.eval() sets it, as batch norm's.
        self.use_running_average = False

    def __call__(self, x: Array, spec: TensorSpec, axes: BlockAxes, amax: Any) -> Float[Array, ""]:
        own = lax.stop_gradient(gemm.amax_of(x, spec, axes))
        if not self.use_running_average:
            self.seen.set_value(jnp.maximum(self.seen.get_value(), own))
        return known(amax, own)

    def advance(self, amax: Float[Array, "*stack"]) -> Float[Array, "*stack"]:
        """The amax of the steps to come; what was seen in this one is forgotten."""
        seen = self.seen.get_value()
        self.seen.set_value(jnp.zeros_like(seen))
        # A layer that did not run keeps what it has.
        return jnp.where(seen == 0, amax, self.next(amax, seen))

    @abc.abstractmethod
    def next(self, amax: Float[Array, "*stack"], seen: Float[Array, "*stack"]) -> Array:
        """The amax of the next step, given this one's and what was seen in it."""


class FirstAmax(AmaxWatch):
    """A learned amax starts from what the first step saw."""

    def __call__(self, x: Array, spec: TensorSpec, axes: BlockAxes, amax: Any) -> Float[Array, ""]:
        super().__call__(x, spec, axes, amax)
        # The parameter itself, which has a gradient; 0 stands for x's own.
        return amax

    def next(self, amax: Array, seen: Array) -> Array:
        return jnp.where(amax == 0, seen, amax)


class AverageAmax(AmaxWatch):
    """``amax = decay amax + (1 - decay) seen``, from the first step's on."""

    def __init__(self, decay: float, stack: Stack = ()):
        super().__init__(stack)
        self.decay = decay

    def next(self, amax: Array, seen: Array) -> Array:
        d = jnp.float32(self.decay)
        return jnp.where(amax == 0, seen, d * amax + (1 - d) * seen)


class DelayedAmax(AmaxWatch):
    """The largest of the last ``window`` steps."""

    def __init__(self, window: int, stack: Stack = ()):
        super().__init__(stack)
        self.history = OperandAmax(jnp.zeros((*stack, window)))

    def next(self, amax: Array, seen: Array) -> Array:
        old = self.history.get_value()
        new = jnp.concatenate([old[..., 1:], seen[..., None]], -1)
        self.history.set_value(jnp.where(seen[..., None] == 0, old, new))
        return new.max(-1)
