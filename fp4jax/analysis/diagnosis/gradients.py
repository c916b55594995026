"""Gradient noise-to-signal: the error that quantizing the whole backward pass leaves in weights'
gradients, against their size and against the noise of the minibatch."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fp4jax.analysis.diagnosis.subject import Subject
from fp4jax.recipe import Recipe, get_recipe

Gradient = dict[str, np.ndarray]

TOTAL = "total"


def gradients(
    subject: Subject,
    recipe: str | int | Recipe,
    params: Any,
    stats: Any,
    batches: Sequence[Any],
    draws: int = 1,
) -> Iterator[list[Gradient]]:
    """For each batch, ``draws`` gradients of all parameters, by path, with different keys.

    Example:
        >>> # next(gradients(subject, "sr", params, stats, batches, draws=4)) has 4 of the first
    """
    bind = subject.structure(recipe)

    @jax.jit
    def gradient(params: Any, stats: Any, batch: Any, step: Any) -> Any:
        return jax.grad(lambda p: subject.loss(bind(p, stats, 0, step), batch))(params)

    for i, batch in enumerate(batches):
        steps = (np.int32(i * draws + j) for j in range(draws))
        yield [_named(gradient(params, stats, batch, step)) for step in steps]


def gradient_noise(
    subject: Subject,
    recipe: str | int | Recipe,
    params: Any,
    stats: Any,
    batches: Sequence[Any],
    exact: Sequence[Gradient],
    layers: Sequence[str],
    draws: int = 8,
) -> dict[str, dict[str, float]]:
    """Noise-to-signal of the weight gradient of each layer, and of the ``total`` gradient.

    With g the gradient in high precision, g_q that of the recipe, both of the whole backward pass
    on the same batch and parameters:

        noise_to_signal = E|g_q - g|**2 / |g|**2 = bias + variance
        bias            = |E g_q - g|**2 / |g|**2
        variance        = E|g_q - E g_q|**2 / |g|**2

    E runs over ``draws`` rounding keys (one, if the recipe rounds to nearest: all is bias), and
    bias and variance are estimated without bias; sums run over batches.

    Args:
        exact: the gradients in high precision of each batch.
        layers: paths of layers.
        draws: rounding keys for each batch.

    Returns:
        The three quantities for each layer and "total".
    """
    draws = max(draws, 2) if get_recipe(recipe).stochastic else 1
    names = (*layers, TOTAL)
    sums = {name: np.zeros(3) for name in names}
    found = gradients(subject, recipe, params, stats, batches, draws)
    for g, samples in zip(exact, found, strict=True):
        for name in names:
            sums[name] += _noise(_of(g, name), [_of(sample, name) for sample in samples])
    return {
        name: dict(zip(("noise_to_signal", "bias", "variance"), _ratios(*s), strict=True))
        for name, s in sums.items()
    }


def minibatch_noise(exact: Sequence[Gradient], layers: Sequence[str]) -> dict[str, float]:
    """E|g - E g|**2 / E|g|**2 over batches, for each layer and "total"; at least two batches."""
    result = {}
    for name in (*layers, TOTAL):
        parts = [_of(g, name) for g in exact]
        mean = [np.mean(leaves, 0) for leaves in zip(*parts, strict=True)]
        variance = sum(_distance(part, mean) for part in parts) / (len(parts) - 1)
        signal = sum(_square(part) for part in parts) / len(parts)
        result[name] = variance / signal if signal else 0.0
    return result


def _noise(g: list[np.ndarray], samples: list[list[np.ndarray]]) -> np.ndarray:
    """Signal, bias**2 and variance of one batch."""
    n = len(samples)
    mean = [np.mean(leaves, 0) for leaves in zip(*samples, strict=True)]
    variance = sum(_distance(s, mean) for s in samples) / (n - 1) if n > 1 else 0.0
    # The mean of n draws still holds a n-th of their variance.
    return np.array([_square(g), _distance(mean, g) - variance / n, variance])


def _ratios(signal: float, bias: float, variance: float) -> tuple[float, float, float]:
    if not signal:
        return (np.inf, np.inf, np.inf) if bias + variance else (0.0, 0.0, 0.0)
    return (bias + variance) / signal, bias / signal, variance / signal


def _of(gradient: Gradient, name: str) -> list[np.ndarray]:
    """The kernel's gradient of one layer, or all there is."""
    if name == TOTAL:
        return list(gradient.values())
    return [gradient["kernel" if name == "(model)" else f"{name}.kernel"]]


def _named(tree: Any) -> Gradient:
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): np.asarray(
            leaf, np.float64
        )
        for path, leaf in leaves
    }


def _square(leaves: list[np.ndarray]) -> float:
    return float(sum(np.vdot(a, a) for a in leaves))


def _distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return _square([x - y for x, y in zip(a, b, strict=True)])
