"""Distillation: a student's divergence from a teacher, beside the loss of its task."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.losses.classes import class_divergence
from fp4jax.losses.named import get_loss
from fp4jax.losses.own import SegmentationLoss
from fp4jax.losses.terms import clamp, flatten, mean, require_nonnegative, require_positive

_DEFAULT = get_loss("bce_tversky")


def divergence(
    student_logits: Float[Array, "n ..."],
    teacher_logits: Float[Array, "n ..."],
    weights: Array | None = None,
    *,
    temperature: float = 2.0,
    ref: bool = False,
) -> Float[Array, ""]:
    """KL(teacher || student) of the pixels' Bernoulli distributions softened with a temperature.

    With a = z_teacher / T and b = z_student / T, in nats, mean over pixels (and labels, if any):

        log(1 + e^b) - log(1 + e^a) - sigmoid(a) (b - a)

    ``ref=True`` is what the reference calls KL: the cross-entropy, with logits limited to +-20
    and probabilities to [1e-6, 1 - 1e-6]. Away from these limits it has the same gradient, but it
    includes the teacher's entropy and so does not reach 0. No gradient flows into the teacher.

    Raises:
        ValueError: if the shapes do not fit together or the temperature is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[1.0, -3.0]])
        >>> float(divergence(z, z))
        0.0
    """
    require_positive("temperature", temperature)
    student, teacher, w = flatten(student_logits, teacher_logits, weights)
    teacher = lax.stop_gradient(teacher)
    if ref:
        b, a = (clamp(z, 20.0) / temperature for z in (student, teacher))
        q, p = (_clip_probability(jax.nn.sigmoid(z)) for z in (b, a))
        return mean(-(p * jnp.log(q) + (1 - p) * jnp.log(1 - q)).mean(1), w)
    b, a = student / temperature, teacher / temperature
    # One product, not a difference of two cross-entropies: JAX 0.12.0's XLA:CPU miscompiles the
    # sum of (b p - a p) of reshaped, scaled b and a.
    kl = jax.nn.softplus(b) - jax.nn.softplus(a) - jax.nn.sigmoid(a) * (b - a)
    return mean(kl.mean(1), w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """``task_weight * task + weight * T^2 * divergence``: the loss of a student with a teacher.

    The divergence is :func:`class_divergence` if the task is of classes that exclude each other,
    else :func:`divergence`. The reference's is
    ``Distillation(task=get_loss("bce_tversky_ref"), ref=True)``.
    """

    task: SegmentationLoss = _DEFAULT
    task_weight: float = 1.0
    weight: float = 1.0
    temperature: float = 2.0
    # cross-entropy instead of KL, see divergence
    ref: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_loss(self.task))
        require_nonnegative("Distillation.task_weight", self.task_weight)
        require_nonnegative("Distillation.weight", self.weight)
        require_positive("Distillation.temperature", self.temperature)
        if self.ref and self.task.exclusive:
            raise ValueError(
                f"Distillation.ref is the reference's cross-entropy of masks, the task "
                f"{self.task.name!r} is one of classes; leave ref out."
            )

    def __call__(
        self,
        logits: Float[Array, "n ..."],
        mask: Shaped[Array, "n ..."],
        teacher_logits: Float[Array, "n ..."],
        weights: Array | None = None,
    ) -> Float[Array, ""]:
        """The loss of a batch."""
        return self.with_components(logits, mask, teacher_logits, weights)[0]

    def with_components(
        self,
        logits: Float[Array, "n ..."],
        mask: Shaped[Array, "n ..."],
        teacher_logits: Float[Array, "n ..."],
        weights: Array | None = None,
        *,
        weight: Array | float | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and the task's components with ``divergence`` for the log.

        ``weight`` takes the place of the attribute; it may be traced.
        """
        weight = self.weight if weight is None else weight
        task, parts = self.task.with_components(logits, mask, weights)
        if self.task.exclusive:
            kl = class_divergence(logits, teacher_logits, weights, temperature=self.temperature)
        else:
            kl = divergence(
                logits, teacher_logits, weights, temperature=self.temperature, ref=self.ref
            )
        total = self.task_weight * task + (weight * self.temperature**2) * kl
        return total, {**parts, "divergence": kl}


def distillation_weight(
    ratio: float, task_loss: float, divergence: float, temperature: float = 2.0
) -> float:
    """The ``weight`` at which distillation is the share ``ratio`` of the loss.

    ``ratio / (1 - ratio) * task_loss / (T^2 * divergence)``, from the averages of some batches.

    Raises:
        ValueError: if ratio is not in [0, 1) or the divergence or temperature is not positive.

    Example:
        >>> distillation_weight(0.5, task_loss=1.0, divergence=0.5)
        0.5
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio is {ratio!r}; give the share of the loss, from 0 to below 1.")
    require_positive("divergence", divergence)
    require_positive("temperature", temperature)
    return ratio / (1 - ratio) * task_loss / (temperature**2 * divergence)


def _clip_probability(p: Array) -> Array:
    return jnp.clip(p, 1e-6, 1 - 1e-6)
