"""Derivatives of norms: forward mode, of the norm and of a model, and gradients of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.errors import TraceContextError

from fp4jax.models.cnn import CNN
from fp4jax.models.norms import GELU, PRELU, BatchNorm, norm_act
from tests.checks import relative_error

GROUPS = 2


def formula(x, scale, bias, slope, activation):
    """For JAX's own derivatives."""
    *_, positions, c = x.shape
    grouped = x.reshape(-1, positions, GROUPS, c // GROUPS)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    var = jnp.square(centred).mean((1, 3), keepdims=True)
    normal = (centred / jnp.sqrt(var + np.float32(1e-5))).reshape(-1, positions, c)
    z = normal * scale[None, None] + bias[None, None]
    return activation(z, None if slope is None else slope[None, None]).reshape(x.shape)


@pytest.mark.parametrize("activation", [GELU, PRELU], ids=["gelu", "prelu"])
@pytest.mark.parametrize("sets", [1, 3])
def test_derivatives(sets, activation):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    arrays = [normal(sets, 20, 6), normal(6), normal(6), normal(1)]
    tangents = [normal(*a.shape) for a in arrays]

    def ours(*arrays):
        return norm_act(*arrays[:3], GROUPS, activation, slope=arrays[3])[0]

    def theirs(*arrays):
        slope = None if activation.slope_derivative is None else arrays[3]
        return formula(*arrays[:3], slope, activation)

    @jax.jit
    def derivatives():
        results = []
        for f in (ours, theirs):
            _, forward = jax.jvp(f, arrays, tangents)
            gradients = jax.grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1, 2, 3))
            _, twice = jax.jvp(gradients, arrays, tangents)
            results.append((forward, gradients(*arrays), twice))
        return results

    # A few roundings per element, which the second derivative multiplies.
    jax.tree.map(_close, *derivatives())


def _close(actual, expected) -> None:
    if np.any(expected):
        assert relative_error(actual, expected) < 2e-5
    else:
        assert not np.any(actual)


def test_forward_mode_of_a_model():
    """In training mode, with running statistics: no recipe, so nothing stands in its way."""
    model = CNN(stages=2, channels=4, image_size=8, rngs=nnx.Rngs(0))
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 8, 8, 3)), jnp.float32)

    def loss(params):
        copy = nnx.merge(graph, params, rest, copy=True)
        return jnp.square(copy(x, rngs=nnx.Rngs(dropout=0))).mean()

    @jax.jit
    def along_itself(params):
        forward = jax.jvp(loss, (params,), (params,))[1]
        products = jax.tree.map(lambda g, p: (g * p).sum(), jax.grad(loss)(params), params)
        return forward, sum(jax.tree.leaves(products))

    forward, reverse = along_itself(params)
    assert forward != 0
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)


def test_a_merged_model_keeps_statistics_of_its_own():
    """Merged within a derivative: what is outside stays as it was, or is refused."""
    norm = BatchNorm(2, rngs=nnx.Rngs(0))
    x = jnp.asarray([[1.0, 2.0], [3.0, 6.0]])
    graph, params, rest = nnx.split(norm, nnx.Param, ...)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(rest))

    def loss(params):
        merged = nnx.merge(graph, params, rest)
        return jnp.square(merged(x)).sum(), nnx.state(merged, nnx.BatchStat)

    _, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(rest), before)
    np.testing.assert_allclose(after["mean"][...], [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(after["var"][...], [1.1, 1.7], rtol=1e-6)
    with pytest.raises(TraceContextError):
        jax.jit(norm)(x)
    norm(x)
    np.testing.assert_allclose(norm.mean[...], after["mean"][...], rtol=1e-6)
