"""Segmentation losses of logits and binary masks: BCE, Dice, Tversky, their sums, distillation.

With p = sigmoid(z), y the mask, and per image TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y:

    bce      max(z, 0) - z y + log(1 + exp(-|z|)), mean over pixels
    tversky  1 - (TP + eps) / (TP + alpha FP + beta FN + eps), mean over images
    dice     1 - (2 TP + eps) / (sum p + sum y + eps), mean over images

Logits are (n, *space) or (n, *space, 1), masks (n, *space) with values 0 and 1 of any real dtype;
computed in float32. ``weights`` (n,) weighs the images of a batch: an image of weight 0, such as
the padding of a last short batch, changes neither value nor gradient, whatever it contains. If all
weights are 0 the loss is 0.

The reference's training loss, called "tversky" there, is ``bce_tversky_ref`` here: it clamps logits
to +-20, beyond which no gradient passes. The default ``bce_tversky`` leaves the clamp out.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from fp4jax.typing import Array, Float, Shaped

#: The names under which the parts of a loss are logged.
COMPONENTS = ("bce", "tversky", "dice")


def bce(
    logits: Float[Array, "n ..."],
    mask: Shaped[Array, "n ..."],
    weights: Array | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy of the mask, in nats, mean over pixels; accurate for any finite logit.

    Raises:
        ValueError: if logits, mask and weights do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{bce(jnp.zeros((1, 2, 2)), jnp.ones((1, 2, 2), jnp.uint8)):.4f}")
        0.6931
    """
    z, y, w = _flatten(logits, mask, weights)
    return _mean(_cross_entropy(z, y).mean(1), w)


def tversky(
    logits: Float[Array, "n ..."],
    mask: Shaped[Array, "n ..."],
    weights: Array | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    eps: float = 1e-6,
) -> Float[Array, ""]:
    """One minus the Tversky index, mean over images; alpha weighs FP, beta FN.

    About 1 for an image with an empty mask unless p is about 0 everywhere.

    Raises:
        ValueError: if logits, mask and weights do not fit together.
    """
    z, y, w = _flatten(logits, mask, weights)
    return _mean(_tversky(jax.nn.sigmoid(z), y, alpha, beta, eps), w)


def dice(
    logits: Float[Array, "n ..."],
    mask: Shaped[Array, "n ..."],
    weights: Array | None = None,
    *,
    eps: float = 1e-6,
) -> Float[Array, ""]:
    """One minus the soft Dice coefficient, mean over images.

    Raises:
        ValueError: if logits, mask and weights do not fit together.
    """
    z, y, w = _flatten(logits, mask, weights)
    return _mean(_dice(jax.nn.sigmoid(z), y, eps), w)


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; give a positive finite number.")


def _require_nonnegative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value!r}; give a finite number of at least 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """``bce_weight * bce + tversky_weight * tversky + dice_weight * dice``: a hashable value.

    Example:
        >>> import dataclasses, jax.numpy as jnp
        >>> loss = dataclasses.replace(get_loss("bce_tversky"), name="recall", beta=0.9, alpha=0.1)
        >>> logits, mask = jnp.zeros((2, 4, 4, 1)), jnp.ones((2, 4, 4), jnp.uint8)
        >>> value, parts = loss.with_components(logits, mask)
        >>> sorted(parts)
        ['bce', 'dice', 'tversky']
    """

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

    def __post_init__(self) -> None:
        for field in ("bce_weight", "tversky_weight", "dice_weight", "alpha", "beta"):
            _require_nonnegative(f"Loss.{field}", getattr(self, field))
        if not (self.bce_weight or self.tversky_weight or self.dice_weight):
            raise ValueError(
                f"Loss {self.name!r} has no part: set bce_weight, tversky_weight or dice_weight."
            )
        for field in ("eps", "clamp"):
            value = getattr(self, field)
            if value is not None:
                _require_positive(f"Loss.{field}", value)

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
        z, y, w = _flatten(logits, mask, weights)
        if self.clamp is not None:
            z = _clamp(z, self.clamp)
        p = jax.nn.sigmoid(z)
        parts = {
            "bce": _mean(_cross_entropy(z, y).mean(1), w),
            "tversky": _mean(_tversky(p, y, self.alpha, self.beta, self.eps), w),
            "dice": _mean(_dice(p, y, self.eps), w),
        }
        scale = {
            "bce": self.bce_weight,
            "tversky": self.tversky_weight,
            "dice": self.dice_weight,
        }
        # Left out rather than multiplied by zero, so that their gradients cost nothing.
        terms = [parts[name] * scale[name] for name in COMPONENTS if scale[name]]
        return sum(terms[1:], terms[0]), parts


_LOSSES = (
    # BCE + Tversky without a clamp: what runs are trained with.
    Loss(name="bce_tversky", bce_weight=1.0, tversky_weight=1.0),
    # The reference's training loss.
    Loss(name="bce_tversky_ref", bce_weight=1.0, tversky_weight=1.0, clamp=20.0),
    # The reference's library losses with eps 1e-6; its sums with BCE clamp logits to +-50.
    Loss(name="dice", dice_weight=1.0, eps=1e-6),
    Loss(name="tversky", tversky_weight=1.0, eps=1e-6),
    Loss(name="bce_dice", bce_weight=1.0, dice_weight=1.0, eps=1e-6),
    Loss(name="bce_dice_ref", bce_weight=1.0, dice_weight=1.0, eps=1e-6, clamp=50.0),
    Loss(name="bce_tversky_standalone", bce_weight=1.0, tversky_weight=1.0, eps=1e-6),
    Loss(
        name="bce_tversky_standalone_ref", bce_weight=1.0, tversky_weight=1.0, eps=1e-6, clamp=50.0
    ),
)

_BY_NAME = {loss.name: loss for loss in _LOSSES}


def losses() -> tuple[str, ...]:
    """Names of all losses, the default first.

    Example:
        >>> losses()[:2]
        ('bce_tversky', 'bce_tversky_ref')
    """
    return tuple(_BY_NAME)


def get_loss(loss: str | Loss) -> Loss:
    """A loss by name; a Loss is returned as it is.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in _BY_NAME:
        return _BY_NAME[loss]
    raise ValueError(f"no loss {loss!r}; known names: {', '.join(_BY_NAME)}.")


def divergence(
    student_logits: Float[Array, "n ..."],
    teacher_logits: Float[Array, "n ..."],
    weights: Array | None = None,
    *,
    temperature: float = 2.0,
    ref: bool = False,
) -> Float[Array, ""]:
    """KL(teacher || student) of the pixels' Bernoulli distributions softened with a temperature.

    With a = z_teacher / T and b = z_student / T, in nats, mean over pixels:

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
    _require_positive("temperature", temperature)
    student, teacher, w = _flatten(student_logits, teacher_logits, weights)
    teacher = lax.stop_gradient(teacher)
    if ref:
        b, a = (_clamp(z, 20.0) / temperature for z in (student, teacher))
        q, p = (_clip_probability(jax.nn.sigmoid(z)) for z in (b, a))
        return _mean(-(p * jnp.log(q) + (1 - p) * jnp.log(1 - q)).mean(1), w)
    b, a = student / temperature, teacher / temperature
    # One product, not a difference of two cross-entropies: JAX 0.12.0's XLA:CPU miscompiles the
    # sum of (b p - a p) of reshaped, scaled b and a.
    kl = jax.nn.softplus(b) - jax.nn.softplus(a) - jax.nn.sigmoid(a) * (b - a)
    return _mean(kl.mean(1), w)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """``task_weight * task + weight * T^2 * divergence``: the loss of a student with a teacher.

    The reference's is ``Distillation(task=get_loss("bce_tversky_ref"), ref=True)``.
    """

    task: Loss = _BY_NAME["bce_tversky"]
    task_weight: float = 1.0
    weight: float = 1.0
    temperature: float = 2.0
    # cross-entropy instead of KL, see divergence
    ref: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", get_loss(self.task))
        _require_nonnegative("Distillation.task_weight", self.task_weight)
        _require_nonnegative("Distillation.weight", self.weight)
        _require_positive("Distillation.temperature", self.temperature)

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
        kl = divergence(logits, teacher_logits, weights, temperature=self.temperature, ref=self.ref)
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
    _require_positive("divergence", divergence)
    _require_positive("temperature", temperature)
    return ratio / (1 - ratio) * task_loss / (temperature**2 * divergence)


def mask_from_255(mask: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A mask stored as 0 and 255 with values 0.0 and 1.0; nothing else guesses a mask's scale.

    Example:
        >>> import jax.numpy as jnp
        >>> mask_from_255(jnp.array([0, 255], jnp.uint8)).tolist()
        [0.0, 1.0]
    """
    return mask.astype(jnp.float32) / 255


def _flatten(logits, mask, weights) -> tuple[Array, Array, Array]:
    """(n, pixels) float32 logits and masks, zero where the weight is zero, and (n,) weights."""
    space = logits.shape
    if logits.ndim == mask.ndim + 1 and space[-1] == 1:
        space = space[:-1]
    if mask.shape == (*space, 1):
        mask = mask.reshape(space)
    if space != mask.shape or logits.ndim < 2:
        raise ValueError(
            f"logits of shape {logits.shape} do not fit a mask of shape {mask.shape}; give logits "
            "(n, *space) or (n, *space, 1) and a mask (n, *space)."
        )
    n = space[0]
    z = logits.astype(jnp.float32).reshape(n, -1)
    y = mask.astype(jnp.float32).reshape(n, -1)
    if weights is None:
        return z, y, jnp.ones(n, jnp.float32)
    if weights.shape != (n,):
        raise ValueError(f"weights of shape {weights.shape} for {n} images; give shape ({n},).")
    # A padded image may hold anything, NaN too: 0 * NaN is NaN, so it is replaced, not multiplied.
    w = weights.astype(jnp.float32)
    used = (w != 0)[:, None]
    zero = jnp.zeros_like(z)
    return jnp.where(used, z, zero), jnp.where(used, y, zero), w


def _mean(per_image: Array, w: Array) -> Array:
    total = w.sum()
    return (per_image * w).sum() / jnp.where(total == 0, jnp.ones_like(total), total)


@jax.custom_jvp
def _cross_entropy(z: Array, y: Array) -> Array:
    # In this form the value does not cancel: at z = 20, y = 1 it is 2e-9.
    return jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    # Written out because sigmoid(z) - y cancels, and max and abs have a kink at 0.
    (z, y), (dz, dy) = primals, tangents
    slope = (1 - y) * jax.nn.sigmoid(z) - y * jax.nn.sigmoid(-z)
    return _cross_entropy(z, y), slope * dz - z * dy


def _tversky(p: Array, y: Array, alpha: float, beta: float, eps: float) -> Array:
    tp = (p * y).sum(1)
    fp = (p * (1 - y)).sum(1)
    fn = ((1 - p) * y).sum(1)
    return 1 - (tp + eps) / (tp + alpha * fp + beta * fn + eps)


def _dice(p: Array, y: Array, eps: float) -> Array:
    return 1 - (2 * (p * y).sum(1) + eps) / (p.sum(1) + y.sum(1) + eps)


def _clamp(z: Array, limit: float) -> Array:
    """z limited to +-limit; the limit itself still passes its gradient, as in torch."""
    return jnp.where(jnp.abs(z) <= limit, z, jnp.sign(z) * limit)


def _clip_probability(p: Array) -> Array:
    return jnp.clip(p, 1e-6, 1 - 1e-6)
