"""Products in the form of accelerators, on the CPU (those of convolutions: convolution/)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.ops import gemm
from tests.accelerator import use_forms_of_accelerators
from tests.checks import assert_same_sums, three_gemms

KEY = jax.random.key(4)


@pytest.mark.parametrize("name", ["baseline", "2d+rht+sr"])
def test_forms_agree(name, monkeypatch):
    # small integers, which rotations keep exact
    rng = np.random.default_rng(0)
    x, w, g = (
        jnp.asarray(rng.integers(-7, 8, s), jnp.float32) for s in ((3, 5, 20), (20, 9), (3, 5, 9))
    )

    def results(recipe):
        dims = (((2,), (0,)), ((), ()))
        f = lambda x, w: fp4.dot_general(x, w, dims, recipe=recipe, key=KEY)  # noqa: E731
        return jax.jit(three_gemms(f))(x, w, g)

    recipe = fp4.get_recipe(name)
    expected = results(recipe)
    use_forms_of_accelerators(monkeypatch)
    # another name, so that JAX traces it again
    jax.tree.map(assert_same_sums, results(dataclasses.replace(recipe, name="other")), expected)


@pytest.mark.parametrize("spec", [fp4.TensorSpec(), fp4.TensorSpec(scaling="four_over_six")])
def test_quantized_operands_are_exact_in_bfloat16(spec):
    x = jax.random.t(jax.random.key(0), 2.0, (64, 256))
    values = gemm.operand(x, spec, gemm.BlockAxes(-1, None), None).values
    assert len(np.unique(values)) > 100
    np.testing.assert_array_equal(values.astype(jnp.bfloat16).astype(jnp.float32), values)
