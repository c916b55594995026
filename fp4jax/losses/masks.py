"""Losses of masks, one or several labels: weighted sums of BCE, Tversky and Dice."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.losses.terms import (
    clamp,
    cross_entropy,
    dice_coefficient,
    flatten,
    flatten_labels,
    mean,
    require_nonnegative,
    require_positive,
    tversky_index,
)

#: The names under which the parts of a loss are logged.
COMPONENTS = ("bce", "tversky", "dice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """``bce_weight * bce + tversky_weight * tversky + dice_weight * dice``: a hashable value.

    With ``labels`` logits and masks are (n, *space, labels): Tversky and Dice are taken per image
    and label, then averaged over labels. ``label_weights`` weighs that average for all three parts
    (only their ratios matter). One label is the same, to the bit, as the binary loss. Without
    ``labels`` there is one mask, and a last axis beyond 1 is space.

    Example:
        >>> import dataclasses, jax.numpy as jnp
        >>> from fp4jax.losses import get_loss
        >>> loss = dataclasses.replace(get_loss("bce_tversky"), name="recall", beta=0.9, alpha=0.1)
        >>> logits, mask = jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4), jnp.uint8)
        >>> value, parts = loss.with_components(logits, mask)
        >>> sorted(parts)
        ['bce', 'dice', 'tversky']
        >>> brats = dataclasses.replace(loss, labels=3, label_weights=(1.0, 1.0, 2.0))
        >>> brats(jnp.zeros((2, 4, 4, 4, 3)), jnp.zeros((2, 4, 4, 4, 3), jnp.uint8)).shape
        ()
    """

    #: Labels are masks of their own, which may overlap.
    exclusive: ClassVar[bool] = False

    name: str
    bce_weight: float = 0.0
    tversky_weight: float = 0.0
    dice_weight: float = 0.0
    # weight of false positives, of false negatives
    alpha: float = 0.3
    beta: float = 0.7
    eps: float = 1e-5
    # logits are limited to +-clamp; the gradient beyond is zero. None: no limit
    clamp: float | None = None
    # size of the last axis of logits and masks; None: there is one mask and no such axis
    labels: int | None = None
    # of the mean over labels; None: all the same
    label_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("bce_weight", "tversky_weight", "dice_weight", "alpha", "beta"):
            require_nonnegative(f"Loss.{field}", getattr(self, field))
        if not (self.bce_weight or self.tversky_weight or self.dice_weight):
            raise ValueError(
                f"Loss {self.name!r} has no part: set bce_weight, tversky_weight or dice_weight."
            )
        for field in ("eps", "clamp"):
            value = getattr(self, field)
            if value is not None:
                require_positive(f"Loss.{field}", value)
        if self.labels is not None and self.labels < 1:
            raise ValueError(f"Loss.labels is {self.labels}; give the number of masks, at least 1.")
        if self.label_weights is not None:
            if len(self.label_weights) != self.labels:
                raise ValueError(
                    f"Loss.label_weights has {len(self.label_weights)} weights, Loss.labels is "
                    f"{self.labels}; give one weight per label."
                )
            for weight in self.label_weights:
                require_nonnegative("a weight of Loss.label_weights", weight)
            require_positive("the sum of Loss.label_weights", sum(self.label_weights))

    def __call__(
        self,
        logits: Float[Array, "n ..."],
        mask: Shaped[Array, "n ..."],
        weights: Array | None = None,
    ) -> Float[Array, ""]:
        """The loss of a batch."""
        return self.with_components(logits, mask, weights)[0]

    def with_components(
        self,
        logits: Float[Array, "n ..."],
        mask: Shaped[Array, "n ..."],
        weights: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and all of ``COMPONENTS`` for the log: as ``has_aux=True`` expects it."""
        if self.labels is None or self.labels == 1:
            z, y, w = flatten(logits, mask, weights)
        else:
            z, y, w = flatten_labels(logits, mask, weights, self.labels)
        if self.clamp is not None:
            z = clamp(z, self.clamp)
        p = jax.nn.sigmoid(z)
        parts = {
            "bce": self._mean(cross_entropy(z, y).mean(1), w),
            "tversky": self._mean(tversky_index(p, y, self.alpha, self.beta, self.eps), w),
            "dice": self._mean(dice_coefficient(p, y, self.eps), w),
        }
        scale = {
            "bce": self.bce_weight,
            "tversky": self.tversky_weight,
            "dice": self.dice_weight,
        }
        # Left out rather than multiplied by zero, so that their gradients cost nothing.
        terms = [parts[name] * scale[name] for name in COMPONENTS if scale[name]]
        return sum(terms[1:], terms[0]), parts

    def _mean(self, values: Array, w: Array) -> Array:
        """The mean of (n,) or (n, labels) values."""
        if values.ndim == 2:
            weights = np.array([self.label_weights or (1.0,) * values.shape[1]])
            values = (values * (weights / weights.sum()).astype(np.float32)).sum(1)
        return mean(values, w)
