"""scaled_matmul with weights that were decoded before, or rotated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import kernels
from fp4jax.kernels.block_scaled_matmul.arg_specs import Layer, weights
from tests.checks import assert_same_sums, diagonal
from tests.kernels.operands import KINDS, interpreted, left
from tests.samples import normal


def test_decoded_weights_give_the_same():
    b = weights(Layer("", 70, 20))
    a = left(5, 70, "bfloat16")[0]
    decoded = jax.jit(kernels.decode)(b)
    assert decoded.shape == b.shape
    assert decoded.nbytes == 2 * 70 * 20
    assert_same_sums(
        kernels.scaled_matmul(a, decoded), kernels.scaled_matmul(a, b, implementation="reference")
    )
    stack = jax.vmap(kernels.decode)(jax.tree.map(lambda x: jnp.stack([x, x]), b))
    assert stack.shape == (2, 70, 20)
    assert jax.vmap(kernels.scaled_matmul, (None, 0))(a, stack).shape == (2, 5, 20)
    grad = lambda b: jax.grad(lambda a: kernels.scaled_matmul(a, b).sum())(a)  # noqa: E731
    assert_same_sums(grad(decoded), grad(b))


class TestRotated:
    """Weights that were rotated along k: the product is that of what dequantize() gives."""

    @functools.cached_property
    def w(self):
        return normal(5, 70, 20)

    @functools.cached_property
    def b(self):
        return fp4.quantize(self.w, fp4.TensorSpec(hadamard=True), axis=0)

    @pytest.mark.parametrize(("kind", "kernel"), diagonal(KINDS, ["auto", "pallas"]))
    def test_product(self, kind, kernel):
        options = interpreted if kernel == "pallas" else {}
        a, values = left(5, 70, kind)
        if kind == "quantized":
            a = fp4.quantize(jnp.asarray(values, jnp.float32), self.b.spec)
            values = np.asarray(a.dequantize(rotated=True))
        y = kernels.scaled_matmul(a, self.b, preferred_element_type=jnp.float32, **options)
        assert y.shape == (5, 20)
        # Two rotated QTensors are multiplied as they are: errors in the padding of k count, too.
        expected = values @ np.asarray(self.b.dequantize(rotated=kind == "quantized"))
        # bfloat16 is rotated in float32 and rounded once, as everywhere
        error = {"bfloat16": 1e-2}.get(kind, 1e-5)
        np.testing.assert_allclose(y, expected, atol=error * np.abs(expected).max())

    def test_decoded(self):
        decoded = kernels.decode(self.b)
        a = left(5, 70, "float32")[0]
        assert (decoded.shape, decoded.values.shape) == ((70, 20), (20, 80))
        wide = kernels.decode(self.b, jnp.float32)
        np.testing.assert_array_equal(wide.values, decoded.values.astype(jnp.float32))
        *others, expected = (kernels.scaled_matmul(a, b) for b in (decoded, wide, self.b))
        for y in others:
            np.testing.assert_allclose(y, expected, atol=1e-5)
        assert kernels.explain(a, decoded) == "reference: b is decoded already"

    def test_gradient_and_vmap(self):
        a, g = left(5, 70, "float32")[0], normal(7, 5, 20)
        f = lambda a: (kernels.scaled_matmul(a, self.b) * g).sum()  # noqa: E731
        expected = g @ self.b.dequantize().T
        np.testing.assert_allclose(jax.grad(f)(a), expected, atol=1e-4)
        stack = jnp.stack([a, 2 * a])
        y = jax.vmap(kernels.scaled_matmul, (0, None))(stack, self.b)
        np.testing.assert_allclose(y[1], 2 * y[0], rtol=1e-6)
