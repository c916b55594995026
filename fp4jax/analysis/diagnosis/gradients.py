"""Gradient noise-to-signal: what quantizing the whole backward pass does to weights' gradients.

Errors propagate here, from the forward pass and from every layer above, whereas operands and
products are measured on each layer alone.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fp4jax.analysis.diagnosis.subject import Subject
from fp4jax.ops.recipe import Recipe, get_recipe

#: Of all parameters, in high precision, by their paths.
Gradient = dict[str, np.ndarray]

TOTAL = "total"
_QUANTITIES = ("noise_to_signal", "bias", "variance")


def gradients(
    subject: Subject, recipe: str | int | Recipe, params: Any, stats: Any, batches: Sequence[Any]
) -> list[Gradient]:
    """The gradient of all parameters under ``recipe``, for each batch."""
    gradient = _gradient(subject, get_recipe(recipe))
    return [_named(gradient(params, stats, b, np.int32(i))) for i, b in enumerate(batches)]


def forward_part(recipe: Recipe) -> Recipe:
    """The recipe with a backward pass in high precision, from the original x and w.

    Example:
        >>> forward_part(get_recipe("full")).operands == get_recipe("forward_only").operands
        True
        >>> forward_part(get_recipe("forward_only")).name
        'forward_only'
    """
    high = (None, None)
    part = dataclasses.replace(recipe, dgrad=high, wgrad=high, residuals="original")
    # One name, so that recipes with equal parts share a compilation.
    return recipe if part == recipe else dataclasses.replace(part, name="forward part")


def gradient_noise(
    subject: Subject,
    recipe: str | int | Recipe,
    params: Any,
    stats: Any,
    batches: Sequence[Any],
    references: Mapping[str, Sequence[Gradient]],
    layers: Sequence[str],
    draws: int = 8,
) -> dict[str, dict[str, float]]:
    """Noise-to-signal of the weight gradient of each layer, and of the ``total`` gradient.

    With g a reference gradient and g_q that of the recipe, on the same batch and parameters:

        noise_to_signal = E|g_q - g|**2 / |g|**2 = bias + variance
        bias            = |E g_q - g|**2 / |g|**2
        variance        = E|g_q - E g_q|**2 / |g|**2

    E runs over ``draws`` rounding keys (one, if the recipe rounds to nearest: all is bias). The
    estimates of bias and variance are unbiased, so a bias near zero may come out negative. Each
    term is summed over batches.

    Args:
        references: gradients of each batch, by what the quantities' names begin with.
        layers: paths of layers.
        draws: rounding keys for each batch, at least 2.

    Returns:
        Three quantities for each reference, by layer or "total".
    """
    recipe = get_recipe(recipe)
    draws = max(draws, 2) if recipe.stochastic else 1
    gradient = _gradient(subject, recipe)
    names = (*layers, TOTAL)
    sums = {(prefix, name): np.zeros(3) for prefix in references for name in names}
    for i, batch in enumerate(batches):
        samples = (
            _named(gradient(params, stats, batch, np.int32(i * draws + j))) for j in range(draws)
        )
        own = {prefix: gradients_[i] for prefix, gradients_ in references.items()}
        for key, terms in _deviations(samples, own, names).items():
            sums[key] += terms
    result: dict[str, dict[str, float]] = {name: {} for name in names}
    for (prefix, name), terms in sums.items():
        values = zip(_QUANTITIES, _ratios(*terms), strict=True)
        result[name] |= {f"{prefix}{quantity}": value for quantity, value in values}
    return result


def minibatch_noise(exact: Sequence[Gradient], layers: Sequence[str]) -> dict[str, float]:
    """E|g - E g|**2 / E|g|**2 over batches, for each layer and "total"; at least two batches.

    Example:
        >>> batches = [{"a.kernel": np.array([2.0])}, {"a.kernel": np.array([4.0])}]
        >>> minibatch_noise(batches, ["a"])["a"]
        0.2
    """
    result = {}
    for name in (*layers, TOTAL):
        parts = [_of(g, name) for g in exact]
        mean = [np.mean(leaves, 0) for leaves in zip(*parts, strict=True)]
        signal = sum(map(_square, parts)) / len(parts)
        variance = sum(_square(_minus(part, mean)) for part in parts) / (len(parts) - 1)
        result[name] = variance / signal if signal else 0.0
    return result


@functools.lru_cache(maxsize=32)
def _gradient(subject: Subject, recipe: Recipe) -> Any:
    """One compilation for all states of a model."""
    bind = subject.structure(recipe)

    @jax.jit
    def gradient(params: Any, stats: Any, batch: Any, step: Any) -> Any:
        return jax.grad(lambda p: subject.loss(bind(p, stats, 0, step), batch))(params)

    return gradient


def _deviations(
    samples: Iterable[Gradient], references: Mapping[str, Gradient], names: Sequence[str]
) -> dict[tuple[str, str], np.ndarray]:
    """|g|**2, bias**2 and variance of one batch; only sums over samples are kept."""
    n = 0
    totals = {
        prefix: {k: np.zeros_like(v) for k, v in g.items()} for prefix, g in references.items()
    }
    squares = {(prefix, name): 0.0 for prefix in references for name in names}
    for sample in samples:
        n += 1
        for prefix, reference in references.items():
            error = {key: sample[key] - value for key, value in reference.items()}
            for key, value in error.items():
                totals[prefix][key] += value
            for name in names:
                squares[prefix, name] += _square(_of(error, name))
    result = {}
    for (prefix, name), square in squares.items():
        of_mean = _square(_of(totals[prefix], name)) / n**2
        variance = max(square - n * of_mean, 0.0) / (n - 1) if n > 1 else 0.0
        # The mean of n samples still holds an n-th of their variance.
        signal = _square(_of(references[prefix], name))
        result[prefix, name] = np.array([signal, of_mean - variance / n, variance])
    return result


def _ratios(signal: float, bias: float, variance: float) -> tuple[float, float, float]:
    if not signal:
        return (np.inf, np.inf, np.inf) if bias + variance else (0.0, 0.0, 0.0)
    return float((bias + variance) / signal), float(bias / signal), float(variance / signal)


def _of(gradient: Gradient, name: str) -> list[np.ndarray]:
    """The kernel's gradient of one layer, or all there is."""
    if name == TOTAL:
        return list(gradient.values())
    return [gradient["kernel" if name == "(model)" else f"{name}.kernel"]]


def _named(tree: Any) -> Gradient:
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    keys = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return {
        key.removesuffix(".value"): np.asarray(leaf, np.float64)
        for key, (_, leaf) in zip(keys, leaves, strict=True)
    }


def _square(leaves: list[np.ndarray]) -> float:
    return float(sum(np.vdot(a, a) for a in leaves))


def _minus(a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
    return [x - y for x, y in zip(a, b, strict=True)]
