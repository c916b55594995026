"""The plain binary losses as functions of logits and masks."""

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array, Float, Shaped
from fp4jax.losses.terms import cross_entropy, dice_coefficient, flatten, mean, tversky_index


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
    z, y, w = flatten(logits, mask, weights)
    return mean(cross_entropy(z, y).mean(1), w)


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
    z, y, w = flatten(logits, mask, weights)
    return mean(tversky_index(jax.nn.sigmoid(z), y, alpha, beta, eps), w)


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
    z, y, w = flatten(logits, mask, weights)
    return mean(dice_coefficient(jax.nn.sigmoid(z), y, eps), w)


def mask_from_255(mask: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A mask stored as 0 and 255 with values 0.0 and 1.0; nothing else guesses a mask's scale.

    Example:
        >>> import jax.numpy as jnp
        >>> mask_from_255(jnp.array([0, 255], jnp.uint8)).tolist()
        [0.0, 1.0]
    """
    return mask.astype(jnp.float32) / 255
