"""Losses of classes that exclude each other: softmax cross-entropy, Tversky and Dice."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array, Float, Integer
from fp4jax.losses.terms import (
    checked_weights,
    dice_coefficient,
    mean,
    require_nonnegative,
    require_positive,
    tversky_index,
)

#: The names under which the parts of a loss of classes are logged.
CLASS_COMPONENTS = ("ce", "tversky", "dice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """``ce_weight * ce + tversky_weight * tversky + dice_weight * dice``: a hashable value.

    p is the softmax of the logits (n, *space, k + 1), class 0 is the background. Tversky and Dice
    are taken per image and class, then averaged over classes: 1 to k, or with
    ``include_background`` all. A class that is absent from an image counts as an empty mask does.

    Example:
        >>> import jax.numpy as jnp
        >>> from fp4jax.losses import get_loss
        >>> logits, labels = jnp.zeros((1, 2, 2, 3)), jnp.array([[[0, 1], [2, 2]]])
        >>> value, parts = get_loss("ce_dice").with_components(logits, labels)
        >>> {name: round(float(part), 4) for name, part in parts.items()}
        {'ce': 1.0986, 'tversky': 0.6633, 'dice': 0.6571}
    """

    #: Classes exclude each other, a softmax.
    exclusive: ClassVar[bool] = True

    name: str
    ce_weight: float = 0.0
    tversky_weight: float = 0.0
    dice_weight: float = 0.0
    # weight of false positives, of false negatives
    alpha: float = 0.3
    beta: float = 0.7
    eps: float = 1e-5
    # whether class 0 counts in Tversky and Dice
    include_background: bool = False

    def __post_init__(self) -> None:
        for field in ("ce_weight", "tversky_weight", "dice_weight", "alpha", "beta"):
            require_nonnegative(f"ClassLoss.{field}", getattr(self, field))
        if not (self.ce_weight or self.tversky_weight or self.dice_weight):
            raise ValueError(
                f"ClassLoss {self.name!r} has no part: set ce_weight, tversky_weight or "
                "dice_weight."
            )
        require_positive("ClassLoss.eps", self.eps)

    def __call__(
        self,
        logits: Float[Array, "n ..."],
        labels: Integer[Array, "n ..."],
        weights: Array | None = None,
    ) -> Float[Array, ""]:
        """The loss of a batch; see :meth:`with_components`."""
        return self.with_components(logits, labels, weights)[0]

    def with_components(
        self,
        logits: Float[Array, "n ..."],
        labels: Integer[Array, "n ..."],
        weights: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and all of ``CLASS_COMPONENTS`` for the log: as ``has_aux=True`` expects it.

        A label that is not one of 0 to k makes the loss NaN, because no class is its.

        Args:
            logits: (n, *space, k + 1).
            labels: (n, *space) or (n, *space, 1), integers 0 to k.
            weights: (n,) of the images.

        Raises:
            ValueError: if the shapes do not fit together or the labels are not integers.
        """
        z, y, known, w = _flatten(logits, labels, weights)
        ce = jnp.where(known, _cross_entropy(z, y), jnp.float32(jnp.nan))
        first = 0 if self.include_background else 1
        p, y = jax.nn.softmax(z, axis=2)[..., first:], y.astype(jnp.float32)[..., first:]
        parts = {
            "ce": mean(ce.mean(1), w),
            "tversky": mean(tversky_index(p, y, self.alpha, self.beta, self.eps).mean(1), w),
            "dice": mean(dice_coefficient(p, y, self.eps).mean(1), w),
        }
        scale = {"ce": self.ce_weight, "tversky": self.tversky_weight, "dice": self.dice_weight}
        terms = [parts[name] * scale[name] for name in CLASS_COMPONENTS if scale[name]]
        return sum(terms[1:], terms[0]), parts


def class_divergence(
    student_logits: Float[Array, "n ..."],
    teacher_logits: Float[Array, "n ..."],
    weights: Array | None = None,
    *,
    temperature: float = 2.0,
) -> Float[Array, ""]:
    """KL(teacher || student) of the pixels' softmax distributions softened with a temperature.

    ``sum_c p_c (log p_c - log q_c)``, p = softmax(z_teacher / T) and q = softmax(z_student / T),
    in nats, mean over pixels. No gradient flows into the teacher.

    Raises:
        ValueError: if the shapes do not fit together or the temperature is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[[1.0, -3.0, 0.5]]])
        >>> float(class_divergence(z, z))
        0.0
    """
    require_positive("temperature", temperature)
    if student_logits.shape != teacher_logits.shape or student_logits.ndim < 3:
        raise ValueError(
            f"a student's logits of shape {student_logits.shape} and a teacher's of shape "
            f"{teacher_logits.shape}; give both (n, *space, classes)."
        )
    n, k = student_logits.shape[0], student_logits.shape[-1]
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    b, a = (
        z.astype(jnp.float32).reshape(n, -1, k) / temperature
        for z in (student_logits, teacher_logits)
    )
    w = jnp.ones(n, jnp.float32) if weights is None else checked_weights(weights, n)
    used = (w != 0)[:, None, None]
    b, a = (jnp.where(used, z, jnp.zeros_like(z)) for z in (b, a))
    log_q, log_p = jax.nn.log_softmax(b, axis=2), jax.nn.log_softmax(a, axis=2)
    return mean((jnp.exp(log_p) * (log_p - log_q)).sum(2).mean(1), w)


def _flatten(logits, labels, weights) -> tuple[Array, Array, Array, Array]:
    """(n, pixels, k + 1) logits and one-hot labels, (n, pixels) if there is one, (n,) weights."""
    space = logits.shape[:-1]
    if labels.shape == (*space, 1):
        labels = labels.reshape(space)
    if labels.shape != space or logits.ndim < 3 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}; give "
            "logits (n, *space, k + 1), one channel per class with the background, and integer "
            "labels (n, *space). For masks take a loss whose name starts with bce."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}; give integers 0 to k, the class of a pixel.")
    n, classes = space[0], logits.shape[-1]
    z = logits.astype(jnp.float32).reshape(n, -1, classes)
    labels = labels.astype(jnp.int32).reshape(n, -1)
    w = jnp.ones(n, jnp.float32) if weights is None else checked_weights(weights, n)
    used = (w != 0)[:, None]
    z = jnp.where(used[..., None], z, jnp.zeros_like(z))
    labels = jnp.where(used, labels, jnp.zeros_like(labels))
    y = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[None, None]
    return z, y, (labels >= 0) & (labels < classes), w


def _cross_entropy(z: Array, y: Array) -> Array:
    # log(1 + exp(others - z_y)) instead of log(sum exp) - z_y: neither value nor slope cancels.
    others = jax.nn.logsumexp(z, axis=2, where=~y)
    return jax.nn.softplus(others - jnp.where(y, z, jnp.zeros_like(z)).sum(2))
