"""What a program for accelerators holds, and that it computes the same."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import fp4jax as fp4
from fp4jax.ops import gemm
from tests.accelerator import use_forms_of_accelerators
from tests.checks import SUMS, assert_close, diagonal, three_gemms
from tests.ops.convolution.cases import Case, run

CASES = {
    "conv": Case((2, 7, 6, 19), (3, 2, 19, 17), (2, 1), ((1, 1), (1, 0)), (1, 2)),
    "conv_transpose": Case(
        (2, 4, 3, 19), (3, 2, 19, 17), (2, 1), ((1, 2), (1, 1)), (1, 2), transposed=True
    ),
}


def uncached(name: str, test: str):
    """A recipe that is used for one test only: JAX keeps what it traced for an equal one."""
    return dataclasses.replace(fp4.get_recipe(name), name=f"{name}, {test}")


@pytest.mark.parametrize(("name", "case"), diagonal(["2d+rht+sr", "chain_rule"], list(CASES)))
def test_accelerators_form_equals_the_oracle(name, case, monkeypatch):
    """On the CPU: dilated scatter, all taps at once."""
    use_forms_of_accelerators(monkeypatch)
    # In float32: XLA:CPU makes of some bfloat16 convolutions a product that it cannot run.
    monkeypatch.setattr(gemm, "by_platform", lambda *operands, cpu, default: cpu(*operands))
    recipe, case = uncached(name, "algorithm"), CASES[case]
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), SUMS)


@pytest.mark.parametrize(
    ("name", "case", "dtype"),
    diagonal(fp4.recipes(), list(CASES), [jnp.bfloat16, jnp.float32]),
)
def test_accelerators_form_has_its_dtypes(name, case, dtype, monkeypatch):
    """bfloat16 products and all, under strict promotion."""
    use_forms_of_accelerators(monkeypatch)
    case = CASES[case]
    x, w, g = (jax.ShapeDtypeStruct(a.shape, dtype) for a in case.data())
    f = three_gemms(lambda x, w: case(x, w, uncached(name, "dtypes")))
    results = jax.eval_shape(f, x, w, g)
    for result, expected in zip(results, (g, x, w), strict=True):
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("case", CASES)
def test_exported_for_gpus_is_the_accelerators_form(case):
    """Although it is traced on a CPU: no loop over taps, and one dilated convolution."""
    case = CASES[case]
    step = jax.jit(three_gemms(lambda x, w: case(x, w, "2d+rht+sr")))
    texts = {
        platform: jax.export.export(step, platforms=[platform])(*case.data()).mlir_module()
        for platform in ("cpu", "cuda")
    }
    loops = {platform: "stablehlo.while" in text for platform, text in texts.items()}
    dilated = {platform: text.count("lhs_dilate = [2, 1]") for platform, text in texts.items()}
    assert loops == {"cpu": True, "cuda": False}
    assert dilated == {"cpu": 0, "cuda": 1}
