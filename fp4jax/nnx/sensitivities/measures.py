"""How far a pass is from that in high precision: KL divergence, error of the gradient."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fp4jax.core.typing import Array, Float
from fp4jax.nnx.sensitivities.program import Pass

#: What turns outputs into probabilities.
ACTIVATIONS = ("sigmoid", "softmax")


@functools.partial(jax.jit, static_argnames="activation")
def kl_divergence(
    exact: Float[Array, "*positions k"],
    other: Float[Array, "*positions k"],
    activation: str = "sigmoid",
) -> Float[Array, ""]:
    """KL(p || q) of the probabilities of two arrays of logits, the mean over positions.

    With d = other - exact, and p the probabilities of ``exact``:

        softmax   KL = log sum_k p_k exp(d_k - m),  m = sum_k p_k d_k
        sigmoid   the sum over the k logits of that for the two classes (z, 0)

    computed as log1p(sum_k p_k expm1(d_k - m)) where all d are small, so that the divergence of
    logits that agree to three digits is right in float32.

    Args:
        exact, other: logits in nats; the last axis are classes or regions.
        activation: "softmax" for classes that exclude each other, "sigmoid" for independent ones.

    Returns:
        A float32 scalar in nats, 0 for equal logits.

    Raises:
        ValueError: another activation.

    Example:
        >>> float(kl_divergence(jnp.zeros((1, 1)), jnp.log(jnp.full((1, 1), 3.0)))).__round__(4)
        0.1438
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; allowed: {', '.join(ACTIVATIONS)}.")
    z, other = exact.astype(jnp.float32), other.astype(jnp.float32)
    d = other - z
    if activation == "sigmoid":
        z, d = (jnp.stack([a, jnp.zeros_like(a)], -1) for a in (z, d))
    p = jax.nn.softmax(z, -1)
    d = d - jnp.sum(p * d, -1, keepdims=True)
    small = jnp.max(jnp.abs(d), -1) <= 1
    near = jnp.log1p(jnp.sum(p * jnp.expm1(jnp.where(small[..., None], d, np.float32(0))), -1))
    far = jax.nn.logsumexp(jax.nn.log_softmax(z, -1) + d, -1)
    divergence = jnp.where(small, near, far)
    if activation == "sigmoid":
        divergence = jnp.sum(divergence, -1)
    # Rounding may leave it at -1e-8.
    return jnp.maximum(jnp.mean(divergence), np.float32(0))


def gradient_sums(exact: Any, other: Any) -> Float[Array, "4"]:
    """(|g|^2, |g_q|^2, g . g_q, |g_q - g|^2) over all parameters."""
    pairs = [
        (a.astype(jnp.float32), b.astype(jnp.float32))
        for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(other), strict=True)
    ]
    terms = [
        jnp.stack([jnp.sum(a * a), jnp.sum(b * b), jnp.sum(a * b), jnp.sum((b - a) ** 2)])
        for a, b in pairs
    ]
    return jnp.sum(jnp.stack(terms), 0)


def relative_error(sums: Sequence[np.ndarray]) -> tuple[float, float]:
    """(|g_q - g| / |g|, cosine) of gradients, from the sums of several batches.

    Example:
        >>> relative_error([np.array([25.0, 9.0, 9.0, 16.0])])
        (0.8, 0.6)
    """
    exact, other, inner, error = np.sum(np.asarray(sums, np.float64), 0).tolist()
    if not exact:
        return (math.inf, 0.0) if error else (0.0, 1.0)
    norms = math.sqrt(exact) * math.sqrt(other)
    return math.sqrt(error / exact), min(inner / norms, 1.0) if norms else 0.0


def distances(exact: Pass, other: Pass, activation: str) -> dict[str, Array]:
    """All that is measured on the device of one batch."""
    found = {"kl": kl_divergence(exact.outputs, other.outputs, activation)}
    if exact.loss is not None:
        found["loss"] = other.loss - exact.loss
        found["gradient"] = gradient_sums(exact.gradient, other.gradient)
    return found


#: Compiled; one program for all layers.
compiled_distances = jax.jit(distances, static_argnums=2)
