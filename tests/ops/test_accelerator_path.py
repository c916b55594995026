"""The code that runs on GPUs, executed on CPU: all taps at once, no phases, no loops.

That quantized operands may enter a product in bfloat16 there is checked on their values.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.ops import gemm

LAYOUT = ("NHWC", "HWIO", "NHWC")
KEY = jax.random.key(4)
OPS = {
    "dot_general": lambda x, w, recipe: fp4.dot_general(
        x, w, (((3,), (2,)), ((), ())), recipe=recipe, key=KEY
    ),
    "conv_general_dilated": lambda x, w, recipe: fp4.conv_general_dilated(
        x, w, (2, 1), ((1, 2), (1, 1)), dimension_numbers=LAYOUT, recipe=recipe, key=KEY
    ),
    "conv_transpose": lambda x, w, recipe: fp4.conv_transpose(
        x, w, (2, 3), "SAME", recipe=recipe, key=KEY
    ),
}


def value_and_gradients(op: str, recipe: str) -> list[np.ndarray]:
    @jax.jit
    def run(x, w):
        y, vjp = jax.vjp(lambda x, w: OPS[op](x, w, recipe), x, w)
        return y, *vjp(jax.random.normal(jax.random.key(2), y.shape))

    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 20))
    w = jax.random.normal(jax.random.key(1), (3, 2, 20, 9))
    return [np.asarray(a) for a in run(x, w)]


@pytest.mark.parametrize("recipe", ["baseline", "2d+rht+sr"])
@pytest.mark.parametrize("op", OPS)
def test_paths_agree(op, recipe, monkeypatch):
    expected = value_and_gradients(op, recipe)
    jax.clear_caches()  # the choice of path is made when tracing
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    got = value_and_gradients(op, recipe)
    jax.clear_caches()
    for a, b in zip(got, expected, strict=True):
        scale = np.abs(b).max()
        assert scale > 0
        np.testing.assert_allclose(a / scale, b / scale, atol=3e-6)


@pytest.mark.parametrize("spec", [fp4.TensorSpec(), fp4.TensorSpec(scaling="four_over_six")])
def test_quantized_operands_are_exact_in_bfloat16(spec):
    x = jax.random.t(jax.random.key(0), 2.0, (64, 256))
    values = gemm.operand(x, spec, gemm.BlockAxes(-1, None), None).values
    assert len(np.unique(values)) > 100
    np.testing.assert_array_equal(values.astype(jnp.bfloat16).astype(jnp.float32), values)
