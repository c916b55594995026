"""WarmStart: a step function whose first n steps are another function's."""

from collections.abc import Callable
from typing import Any

from fp4jax.train.state import TrainState


class WarmStart:
    """The step of one run: the first steps in high precision, then those of the recipe.

    Which one is due follows from ``state.step``, so that a run goes on as it would have. Each is
    compiled once, when it is first taken. The host chooses, not ``jax.lax.cond``: XLA:CPU runs the
    convolutions' gradients many times slower inside of one (measured on two cores, the 500k CNN,
    eight images of 64x64: 62 ms a step in high precision, 2246 ms in a branch).

    Args:
        steps: how many are warm.
        warm, then: ``(state, batch, ...) -> (state, values)``, compiled when first called.

    Example:
        >>> import jax.numpy as jnp
        >>> def step(size):
        ...     def add(state, batch):
        ...         return TrainState(state.step + 1, 0, state.params + size, 0, 0), {}
        ...     return add
        >>> step, state = WarmStart(2, step(1), step(10)), TrainState(jnp.int32(0), 0, 0, 0, 0)
        >>> for _ in range(3):
        ...     state, _ = step(state, None)
        >>> int(state.params)
        12
    """

    def __init__(self, steps: int, warm: Callable[..., Any], then: Callable[..., Any]):
        self.steps, self._warm, self._then = steps, warm, then
        # The last state's number of steps, known without waiting for the device.
        self._last: tuple[Any, int] = None, 0

    def __call__(self, state: TrainState, *rest: Any) -> tuple[TrainState, Any]:
        known, number = self._last
        if state.step is not known:
            number = int(state.step)
        state, values = (self._warm if number < self.steps else self._then)(state, *rest)
        self._last = state.step, number + 1
        return state, values

    def lower(self, *args: Any) -> Any:
        """The recipe's step, to be compiled ahead."""
        then: Any = self._then
        return then.lower(*args)
