"""scaled_matmul under jit, vmap and grad."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.kernels.block_scaled_matmul.arg_specs import Layer, axis_of, weights
from tests.checks import assert_same_sums
from tests.kernels.operands import ROWS, TILES, interpreted, left
from tests.samples import normal


@pytest.mark.parametrize("options", [{}, interpreted], ids=["auto", "pallas"])
def test_jit_compiles_once(options):
    b = weights(Layer("", 64, 16))
    traces = []

    @jax.jit
    def f(a, b):
        traces.append(1)
        return kernels.scaled_matmul(a, b, **options)

    a = left(4, 64, "float32")[0]
    np.testing.assert_array_equal(f(a, b), f(a, weights(Layer("", 64, 16))))
    assert len(traces) == 1
    assert_same_sums(f(a, b), kernels.scaled_matmul(a, b, **options))


@pytest.mark.parametrize(
    ("options", "spec"), [({}, TILES), (interpreted, ROWS)], ids=["auto", "pallas"]
)
def test_vmap(options, spec):
    """Over a, over stacked QTensors, over both, and twice."""
    f = jax.jit(lambda a, b: kernels.scaled_matmul(a, b, **options))
    w = normal(0, 3, 70, 20)
    a = normal(1, 3, 5, 70)
    quantize = lambda w: fp4.quantize(w, spec, axis=axis_of(spec))  # noqa: E731
    stack = jax.jit(jax.vmap(quantize))(w)
    each = [jax.tree.map(lambda x, i=i: x[i], stack) for i in range(3)]
    expected = jnp.stack([jnp.stack([f(x, b) for x in a]) for b in each])
    diagonal = jnp.stack([expected[i, i] for i in range(3)])
    close = lambda y, e: np.testing.assert_allclose(y, e, atol=1e-4)  # noqa: E731
    close(jax.vmap(f, (0, None))(a, each[0]), expected[0])
    close(jax.vmap(f, (None, 0))(a[0], stack), expected[:, 0])
    close(jax.vmap(f, (1, 0), 1)(a.transpose(1, 0, 2), stack), diagonal.transpose(1, 0, 2))
    close(jax.vmap(jax.vmap(f, (0, None)), (None, 0))(a, stack), expected)
    qa = jax.vmap(lambda x: fp4.quantize(x, ROWS))(a)
    of_dequantized = jnp.stack(
        [x @ b.dequantize() for x, b in zip(qa_values(qa), each, strict=True)]
    )
    close(jax.vmap(f)(qa, stack), of_dequantized)


def qa_values(stack):
    return jax.vmap(lambda q: q.dequantize())(stack)


@pytest.mark.parametrize("options", [{}, interpreted], ids=["auto", "pallas"])
def test_gradient_passes_straight_through(options):
    b = weights(Layer("", 70, 20))
    w = b.dequantize()
    a, g = left(5, 70, "float32")[0], normal(7, 5, 20)
    f = lambda a, b: kernels.scaled_matmul(a, b, **options)  # noqa: E731
    da = jax.grad(lambda a: (f(a, b) * g).sum())(a)
    np.testing.assert_allclose(da, g @ w.T, atol=1e-4)
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), b)
    in_vmap = jax.vmap(jax.grad(lambda a, b: (f(a, b) * g).sum()), (None, 0))(a, stack)
    np.testing.assert_allclose(in_vmap, jnp.stack([da, da]), atol=1e-4)
    loss = lambda a: (jax.vmap(f, (0, None))(a, b) * g[None]).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(jnp.stack([a, 2 * a])), in_vmap, atol=1e-4)
    half = jax.jit(jax.grad(lambda a: f(a, b).astype(jnp.float32).sum()))(a.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), jnp.broadcast_to(w.sum(1), (5, 70)), rtol=1e-2, atol=1e-1
    )


def test_gradient_of_qtensors_is_zero():
    """A QTensor is not differentiated: its amax gets zero, its codes none."""
    a, b = left(5, 32, "quantized")[0], weights(Layer("", 32, 8))
    of_amax = jax.grad(
        lambda amax: kernels.scaled_matmul(a, dataclasses.replace(b, amax=amax)).sum()
    )
    assert of_amax(b.amax) == 0
    _, vjp = jax.vjp(kernels.scaled_matmul, a, b)
    for cotangent, q in zip(vjp(jnp.ones((5, 8))), (a, b), strict=True):
        assert cotangent.codes.dtype == jax.dtypes.float0
        assert not np.asarray(cotangent.block_scales, np.float32).any()
        assert cotangent.amax.shape == q.amax.shape
