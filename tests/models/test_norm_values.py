"""Norms: values, statistics and gradients, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax.models.norms import GELU, IDENTITY, PRELU, RELU, BatchNorm, leaky_relu, norm_act
from tests.samples import normal


def test_batch_norm_statistics():
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    x = normal(0, 2, 5, 3) * 2 + 1
    y = norm(x)
    np.testing.assert_allclose(y.mean((0, 1)), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(norm.mean[...], 0.1 * x.mean((0, 1)), rtol=1e-6)
    expected = 0.9 + 0.1 * np.asarray(x).reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(norm.var[...], expected, rtol=1e-6)
    norm.eval()
    centred = x - norm.mean[...].reshape(1, 1, 3)
    np.testing.assert_allclose(
        norm(x), centred / jnp.sqrt(norm.var[...] + 1e-5).reshape(1, 1, 3), rtol=1e-5
    )
    norm.train()
    with pytest.raises(ValueError, match="1 value per channel"):
        norm(jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("sets", "groups", "activation"),
    [(1, 6, RELU), (1, 6, leaky_relu(0.2)), (3, 6, GELU), (3, 2, GELU), (2, 1, IDENTITY)],
)
def test_norm_act(sets, groups, activation):
    x = normal(0, sets, 20, 6) * 2 + 1
    scale, bias = jnp.linspace(0.5, 1.5, 6), jnp.linspace(-1, 1, 6)

    def plain(x, scale, bias):
        grouped = x.reshape(sets, 20, groups, -1)
        mean, var = (f(grouped, (1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
        z = ((grouped - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
        return activation.function(z * scale[None, None] + bias[None, None])

    weights = normal(1, *x.shape)
    ours = lambda *args: norm_act(*args, groups, activation)[0]  # noqa: E731

    @jax.jit
    def results(*args):
        """Both values, and both gradients."""
        pulled = [jax.vjp(f, *args) for f in (ours, plain)]
        return [y for y, _ in pulled], [pull(weights) for _, pull in pulled]

    values, (got, expected) = results(x, scale, bias)
    np.testing.assert_allclose(*values, atol=1e-5)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_gradients_of_norm_act_far_from_zero():
    """Errors are those that float32 makes of x itself: eps times mean over deviation."""
    rng, mean = np.random.default_rng(0), 1000.0
    x = (rng.normal(size=(2, 4096, 3)) + mean).astype(np.float32)
    weights = (rng.normal(size=x.shape) + 0.5 * (x - mean) + 0.3).astype(np.float32)

    def value(x, scale):
        y, _, _ = norm_act(x, scale, jnp.zeros(3), 3)
        return (y * weights).sum()

    got = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(x), jnp.ones(3))
    z, g = x.astype(np.float64), weights.astype(np.float64)
    factor = 1 / np.sqrt(z.var(1, keepdims=True) + 1e-5)
    normal = (z - z.mean(1, keepdims=True)) * factor
    along = (g * normal).mean(1, keepdims=True)
    expected = factor * (g - g.mean(1, keepdims=True) - normal * along), (g * normal).sum((0, 1))
    for a, b in zip(got, expected, strict=True):
        assert np.abs(a - b).max() < np.finfo(np.float32).eps * mean * np.abs(b).max()


def test_prelu_behind_a_norm():
    x = normal(0, 2, 20, 6) * 2 + 1
    scale, bias, slope = jnp.linspace(0.5, 1.5, 6), jnp.linspace(-1, 1, 6), jnp.array([0.3])

    def plain(x, scale, bias, slope):
        mean, var = (f(x, 1, keepdims=True) for f in (jnp.mean, jnp.var))
        z = (x - mean) / jnp.sqrt(var + 1e-5) * scale[None, None] + bias[None, None]
        return jnp.maximum(z, 0) + slope[None, None] * jnp.minimum(z, 0)

    ours = lambda x, scale, bias, slope: norm_act(  # noqa: E731
        x, scale, bias, 6, PRELU, slope=slope
    )[0]
    g = normal(1, *x.shape)
    results = []
    for f in (ours, plain):
        y, pull = jax.vjp(f, x, scale, bias, slope)
        results.append([y, *pull(g)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)
