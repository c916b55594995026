"""What a loss is to the rest of the package, and users' functions as losses."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from fp4jax.core.typing import Array


@runtime_checkable
class SegmentationLoss(Protocol):
    """A loss of logits (n, *space, k) and targets; :class:`fp4jax.losses.Loss` is one.

    Attributes:
        name: what runs and tables call it.
        exclusive: whether the k logits are classes that exclude each other, the targets then maps
            of integers, class 0 the background; else k masks of 0 and 1.
    """

    @property
    def name(self) -> str:
        """What runs and tables call it."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether the logits are of classes that exclude each other."""
        ...

    def __call__(self, logits: Any, masks: Any, weights: Any = None) -> Array:
        """The loss of a batch, a float32 scalar; ``weights`` (n,) weighs the images, None: 1."""
        ...

    def with_components(
        self, logits: Any, masks: Any, weights: Any = None
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and scalars by name for the log."""
        ...


@dataclasses.dataclass(frozen=True)
class FunctionLoss:
    """A function ``(logits, masks, weights) -> scalar`` as a loss.

    Attributes:
        name: also that of its value in the log.
        function: of a batch; an image of weight 0 must change neither value nor gradient.
        exclusive: whether it is of classes that exclude each other.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = FunctionLoss("l1", lambda z, y, w: jnp.abs(jnp.asarray(z) - y).mean())
        >>> value, parts = loss.with_components(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2)))
        >>> float(value), list(parts)
        (1.0, ['l1'])
    """

    name: str
    function: Callable[..., Any]
    exclusive: bool = False

    def __call__(self, logits: Any, masks: Any, weights: Any = None) -> Array:
        """The loss of a batch."""
        return self.function(logits, masks, weights)

    def with_components(
        self, logits: Any, masks: Any, weights: Any = None
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and the same by its name."""
        value = self(logits, masks, weights)
        return value, {self.name: value}
