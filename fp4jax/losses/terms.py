"""The terms of all losses, per image, and how they are averaged."""

import math

import jax
import jax.numpy as jnp

from fp4jax.core.typing import Array


def require_positive(name: str, value: float) -> None:
    """Raises a ValueError unless the value is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; give a positive finite number.")


def require_nonnegative(name: str, value: float) -> None:
    """Raises a ValueError unless the value is finite and not negative."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value!r}; give a finite number of at least 0.")


def flatten(logits, mask, weights) -> tuple[Array, Array, Array]:
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
    # A padded image may hold anything, NaN too: 0 * NaN is NaN, so it is replaced, not multiplied.
    w = checked_weights(weights, n)
    used = (w != 0)[:, None]
    zero = jnp.zeros_like(z)
    return jnp.where(used, z, zero), jnp.where(used, y, zero), w


def flatten_labels(logits, masks, weights, labels: int) -> tuple[Array, Array, Array]:
    """:func:`flatten` to (n, pixels, labels) of logits and masks (n, *space, labels)."""
    if logits.shape != masks.shape or logits.ndim < 3 or logits.shape[-1] != labels:
        raise ValueError(
            f"logits of shape {logits.shape} and masks of shape {masks.shape} for {labels} labels; "
            f"give both the shape (n, *space, {labels})."
        )
    n = logits.shape[0]
    z, y, w = flatten(logits.reshape(n, -1), masks.reshape(n, -1), weights)
    return z.reshape(n, -1, labels), y.reshape(n, -1, labels), w


def checked_weights(weights, n: int) -> Array:
    """(n,) float32; a ValueError for another shape."""
    if weights.shape != (n,):
        raise ValueError(f"weights of shape {weights.shape} for {n} images; give shape ({n},).")
    return weights.astype(jnp.float32)


def mean(per_image: Array, w: Array) -> Array:
    """The mean over images with their weights; 0 if all weights are 0."""
    total = w.sum()
    return (per_image * w).sum() / jnp.where(total == 0, jnp.ones_like(total), total)


@jax.custom_jvp
def cross_entropy(z: Array, y: Array) -> Array:
    """Binary cross-entropy of each pixel."""
    # In this form the value does not cancel: at z = 20, y = 1 it is 2e-9.
    return jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    # Written out because sigmoid(z) - y cancels, and max and abs have a kink at 0.
    (z, y), (dz, dy) = primals, tangents
    slope = (1 - y) * jax.nn.sigmoid(z) - y * jax.nn.sigmoid(-z)
    return cross_entropy(z, y), slope * dz - z * dy


def tversky_index(p: Array, y: Array, alpha: float, beta: float, eps: float) -> Array:
    """One minus the Tversky index over axis 1, the pixels."""
    tp = (p * y).sum(1)
    fp = (p * (1 - y)).sum(1)
    fn = ((1 - p) * y).sum(1)
    return 1 - (tp + eps) / (tp + alpha * fp + beta * fn + eps)


def dice_coefficient(p: Array, y: Array, eps: float) -> Array:
    """One minus the soft Dice coefficient over axis 1, the pixels."""
    return 1 - (2 * (p * y).sum(1) + eps) / (p.sum(1) + y.sum(1) + eps)


def clamp(z: Array, limit: float) -> Array:
    """z limited to +-limit; the limit itself still passes its gradient, as in torch."""
    return jnp.where(jnp.abs(z) <= limit, z, jnp.sign(z) * limit)
