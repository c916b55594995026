"""cuDNN's block-scaled product: its test at first use, its result, its vmap."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fp4jax.kernels import backend, first_use
from fp4jax.kernels.block_scaled_matmul import api, base, cudnn
from fp4jax.kernels.block_scaled_matmul.arg_specs import Layer, weights
from tests.kernels.operands import ROWS, TILES, left

CUDNN = "cuDNN's block-scaled product"


@pytest.fixture
def tried(monkeypatch):
    """cuDNN's self-check with a given product in its place."""

    def set_product(product):
        # JAX keeps what it traced before.
        jax.clear_caches()
        monkeypatch.setattr(backend, "local_capability", lambda: (10, 0))
        monkeypatch.setattr(cudnn, "_scaled_matmul", product)

    first_use.forget(CUDNN)
    yield set_product
    first_use.forget(CUDNN)


def exact_product(a, b, a_scales, b_scales):
    """What jax.nn.scaled_matmul computes, for CPU."""
    values = [
        x.astype(jnp.float32) * jnp.repeat(s.astype(jnp.float32), 16, axis=-1)
        for x, s in ((a, a_scales), (b, b_scales))
    ]
    return jnp.einsum("smk,snk->smn", *values)


def test_cudnn_passes_its_test_once(tried):
    calls = []

    def product(*operands):
        calls.append(1)
        return exact_product(*operands)

    tried(product)
    inside_a_trace = []
    jax.jit(lambda x: inside_a_trace.append(cudnn.objection((10, 0))) or x)(jnp.ones(()))
    assert inside_a_trace == [None]
    assert cudnn.objection((10, 0)) is None
    assert len(calls) == 1
    assert "no GPU of compute capability 12.0 here" in cudnn.objection((12, 0))


def test_cudnn_that_is_wrong_or_fails_is_warned_of_once(tried):
    tried(lambda *operands: exact_product(*operands).at[0, 3, 5].add(0.25))
    with pytest.warns(
        RuntimeWarning, match=r"1 of 16384 values are wrong\. fp4jax.kernels does without"
    ):
        assert "wrong" in cudnn.objection((10, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "wrong" in cudnn.objection((10, 0))
    first_use.forget(CUDNN)

    def fails(*operands):
        raise NotImplementedError("no such engine")

    tried(fails)
    with pytest.warns(RuntimeWarning, match=r"cannot run \(NotImplementedError: no such engine\)"):
        assert "failed" in cudnn.objection((10, 0))


@pytest.mark.parametrize("spec", [ROWS, TILES], ids=["rows", "tiles"])
def test_cudnn_product_and_its_vmap(monkeypatch, spec):
    monkeypatch.setattr(cudnn, "_scaled_matmul", exact_product)
    a = left(5, 70, "quantized")[0]
    b = weights(Layer("", 70, 20), spec)
    plan = api._Plan("cudnn", False, None, jnp.dtype(jnp.float32), api.Device("", (10, 0), 1))
    f = lambda a, b: api._by_cudnn(plan, a, b)  # noqa: E731
    expected = base.scaled_matmul(a, b, jnp.float32)
    np.testing.assert_allclose(f(a, b), expected, atol=1e-5)
    # Of constants JAX 0.10 folds 4-bit views wrongly.
    np.testing.assert_allclose(jax.jit(lambda: f(a, b))(), expected, atol=1e-5)
    stack = jax.tree.map(lambda x: jnp.stack([x, x, x]), b)
    y = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(jax.tree.map(lambda x: x[None], a), stack)
    np.testing.assert_allclose(y, jnp.broadcast_to(expected, (1, 3, *expected.shape)), atol=1e-5)


def test_jax_0_11_computes_it_on_cpu():
    """jax.nn.scaled_matmul itself, where it runs without a GPU."""
    if jax.__version_info__ < (0, 11):
        pytest.skip("JAX 0.10 has scaled_matmul on GPUs only")
    a, b = left(5, 70, "quantized")[0], weights(Layer("", 70, 20))
    y = cudnn.product(api._packed(a), api._packed(b))
    scales = [base.tensor_scale(a), base.tensor_scale(b)]
    y = base.scaled(y, scales, jnp.float32)
    np.testing.assert_allclose(y, base.scaled_matmul(a, b, jnp.float32), atol=1e-5)
