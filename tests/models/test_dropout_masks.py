"""What dropout drops: its rate, independent neighbours, seeds, whole samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax.models.dropout import Dropout, DropPath, Seeds


@pytest.mark.parametrize(
    "rate", [0.5, 0.1, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.25, 0.9))]
)
def test_dropout(rate):
    x = jnp.ones((64, 100, 127))
    drop = Dropout(rate)
    y, gradient = jax.jit(
        jax.value_and_grad(lambda x: drop(x, Seeds(nnx.Rngs(0))).sum(), has_aux=False)
    )(x)
    y = drop(x, Seeds(nnx.Rngs(0)))
    # The gradient passes through the same elements.
    np.testing.assert_array_equal(gradient, y)
    n = x.size
    kept = float((y > 0).mean())
    assert kept == pytest.approx(1 - rate, abs=4 * np.sqrt(rate * (1 - rate) / n))
    # Unbiased to 1e-4 by construction: value x probability = 1, probability within 2**-17.
    width = next(w for w in (1, 2, 4, 8, 16) if w == 16 or (rate * 2**w).is_integer())
    probability = 1 - round(rate * 2**width) / 2**width
    assert float(y.max()) * probability == pytest.approx(1, abs=1e-6)
    assert probability == pytest.approx(1 - rate, abs=1e-5)
    # Neighbours are independent, along every axis.
    mask = np.asarray(y > 0, np.float64) - (1 - rate)
    for axis in range(3):
        a, b = (np.take(mask, np.arange(mask.shape[axis] - 1) + i, axis) for i in (0, 1))
        assert abs((a * b).mean()) / (rate * (1 - rate)) < 4 / np.sqrt(n)


def test_dropout_seeds():
    x = jnp.ones((1000,))
    seeds = Seeds(nnx.Rngs(dropout=0))
    drop = Dropout(0.5)
    first, second = drop(x, seeds), drop(x, seeds)
    again = drop(x, Seeds(nnx.Rngs(dropout=0)))
    other = drop(x, Seeds(nnx.Rngs(dropout=1)))
    np.testing.assert_array_equal(first, again)
    for different in (second, other):
        assert 0.4 < float((first == different).mean()) < 0.6
    keys = jax.random.split(jax.random.key(0), 4)
    lanes = jax.vmap(lambda key: drop(x, Seeds(nnx.Rngs(dropout=key))))(keys)
    for key, lane in zip(keys, lanes, strict=True):
        np.testing.assert_array_equal(lane, drop(x, Seeds(nnx.Rngs(dropout=key))))


def test_drop_path_drops_samples():
    y = DropPath(0.5)(jnp.ones((4096, 2, 3)), Seeds(nnx.Rngs(0)))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (np.ptp(np.asarray(y), (1, 2)) == 0).all()
    assert float(y.mean()) == pytest.approx(1, abs=4 / np.sqrt(4096))
