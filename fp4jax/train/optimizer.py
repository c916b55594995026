"""Optimizers and learning rates as the reference uses them; the rate is an argument, not a part.

    g <- g * min(1, clip / |g|)                   |g| the norm over all parameters
    adamw    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  u = m_hat / (sqrt(v_hat) + eps)
    adamax   m = b1 m + (1 - b1) g,  n = max(b2 n, |g| + eps),  u = m_hat / n
    p <- p - rate (u + decay p)

b1 = 0.9, b2 = 0.999, eps = 1e-8; m_hat = m / (1 - b1^t), v_hat = v / (1 - b2^t). Decay is
decoupled and falls on all parameters, norms and biases included. torch's ``AdamW`` and ``Adamax``
(without its coupled decay) take the same steps up to float32 rounding.

:func:`optimizer` yields u + decay p. So a train step can take the rate from anywhere, for each lane
of a ``vmap`` its own, and a new rate compiles nothing.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

from fp4jax.core.typing import Array

_RULES = {"adamw": optax.scale_by_adam, "adamax": optax.scale_by_adamax}

#: What moves the learning rate: the validation loss, the step, or nothing.
SCHEDULES = ("plateau", "plateau_ref", "onecycle", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What an architecture is trained with."""

    optimizer: str
    learning_rate: float
    weight_decay: float


_ADAMAX = Constants(optimizer="adamax", learning_rate=5e-4, weight_decay=0.0)
_ADAMW = Constants(optimizer="adamw", learning_rate=1e-4, weight_decay=1e-4)
_UNET = Constants(optimizer="adamw", learning_rate=1e-3, weight_decay=1e-5)

#: Constants by architecture, the same at all scales: the reference's ("vit" means "vit_adamw"); for
#: MONAI's networks those usual with them, Swin UNETR's from its BraTS 2021 training.
DEFAULTS = {
    "cnn": _ADAMAX,
    "vit": _ADAMW,
    "vit_adamw": _ADAMW,
    "vit_adamax": _ADAMAX,
    "swin": _ADAMW,
    "swin_unetr": Constants(optimizer="adamw", learning_rate=1e-4, weight_decay=1e-5),
    "unet": _UNET,
    "basic_unet": _UNET,
}


def optimizer(
    name: str, weight_decay: float = 0.0, *, clip: float | None = 1.0
) -> optax.GradientTransformation:
    """Clipping, then AdamW or Adamax, as an optax transformation without the learning rate.

    Its updates are to be multiplied by minus the rate. With a rate that never changes,
    ``optax.chain(optimizer(...), optax.scale_by_learning_rate(rate))`` is an ordinary optimizer.
    The norm before clipping is ``optax.tree.norm(gradients)``.

    Args:
        name: "adamw" or "adamax".
        weight_decay: share of each parameter subtracted per step, in units of the rate.
        clip: largest norm of the gradient over all parameters; None for no limit.

    Raises:
        ValueError: for an unknown name, or a number out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> adamw = optimizer("adamw", weight_decay=0.5)
        >>> params, gradients = {"w": jnp.ones(3)}, {"w": jnp.full(3, 1e-4)}
        >>> updates, state = adamw.update(gradients, adamw.init(params), params)
        >>> print(f"{updates['w'][0]:.3f}")
        1.500
    """
    if name not in _RULES:
        raise ValueError(f"no optimizer {name!r}; known names: {', '.join(_RULES)}.")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"weight_decay is {weight_decay!r}; give a finite number >= 0.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip!r}; give a positive norm, or None for no limit.")
    parts = [_RULES[name](b1=0.9, b2=0.999, eps=1e-8)]
    if clip is not None:
        parts.insert(0, optax.clip_by_global_norm(clip))
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    chain = optax.chain(*parts)

    def update(updates, state, params=None):
        with _standard_promotion():
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def schedule(name: str, learning_rate: float, steps: int) -> Callable[[Array], Array]:
    """The learning rate of a step: a function of the number of steps taken, int32 to float32.

    "onecycle" rises in a cosine from 1/25 of ``learning_rate`` to all of it over 30 % of the steps
    and then falls to 1e-4 of that start. The others are constant; the factor of a "plateau" comes
    from the validation loss (:class:`fp4jax.train.plateau.Plateau`) and multiplies the rate.

    Args:
        name: one of ``SCHEDULES``.
        learning_rate: the highest rate.
        steps: of the whole training.

    Raises:
        ValueError: for an unknown name, or a number out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rate = schedule("onecycle", 1e-3, steps=100)
        >>> [f"{rate(jnp.array(t)):.0e}" for t in (0, 30, 100)]
        ['4e-05', '1e-03', '4e-09']
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule {name!r}; known names: {', '.join(SCHEDULES)}.")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate!r}; give a positive finite number.")
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; give the number of steps of the training, >= 1.")
    # Below 4 steps optax's rise would be 0 steps long.
    onecycle = optax.schedules.cosine_onecycle_schedule(max(steps, 4), learning_rate)

    def rate(step: Array) -> Array:
        if name != "onecycle":
            return jnp.full(step.shape, learning_rate, jnp.float32)
        with _standard_promotion():
            return jnp.asarray(onecycle(step), jnp.float32)

    return rate


@contextlib.contextmanager
def _standard_promotion() -> Iterator[None]:
    """optax relies on implicit promotions, which a user may have switched off."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
