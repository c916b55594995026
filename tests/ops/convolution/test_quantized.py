"""Convolutions with a recipe against the oracle: operands, residuals, dtypes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec
from fp4jax.ops.recipe import ROLES
from tests.checks import SUMS as TOLERANCE, assert_close, diagonal, relative_error, three_gemms
from tests.ops.convolution.cases import BASELINE, CASES, run


@pytest.mark.parametrize(("name", "case"), diagonal(fp4.recipes(), list(CASES)))
def test_equals_the_oracle(name, case):
    recipe, case = fp4.get_recipe(name), CASES[case]
    x, w, g = case.data()
    expected = case.oracle(x, w, g, recipe)
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    exact = case.oracle(x, w, g, BASELINE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        if differs is not None:
            assert error > 0.01 if differs else error == 0


def affected(recipe) -> tuple[bool | None, ...]:
    """Whether y, dx and dw differ from high precision; None: it depends on the data."""
    quantizes = [specs != (None, None) for specs in (recipe.fprop, recipe.dgrad, recipe.wgrad)]
    if recipe.residuals == "quantized":
        quantizes[1] |= recipe.fprop[1] is not None
        quantizes[2] |= recipe.fprop[0] is not None
    if recipe.fprop[0] is not None and recipe.fprop[0].clip != 1:
        # What is clipped has no gradient.
        return quantizes[0], None, quantizes[2]
    return tuple(quantizes)


ONE_SPEC = {
    "fprop.x": TensorSpec(),
    "fprop.w": TensorSpec(block=(16, 16), scaling="four_over_six"),
    "dgrad.g": TensorSpec(rounding="stochastic"),
    "dgrad.w": TensorSpec(block=(16, 16)),
    "wgrad.x": TensorSpec(rounding="stochastic_unbiased"),
    "wgrad.g": TensorSpec(rounding="stochastic"),
}


def only(role: str, spec: TensorSpec):
    """The baseline with one of its operands quantized."""
    field = role.split(".")[0]
    specs = tuple(spec if r == role else None for r in ROLES if r.startswith(field))
    recipe = dataclasses.replace(BASELINE, name=role, **{field: specs})
    assert [s is not None for s in recipe.operands] == [r == role for r in ROLES]
    return recipe


@pytest.mark.parametrize(("role", "case"), diagonal(ROLES, ["2d_stride_2", "2d_transposed"]))
def test_one_operand_equals_the_oracle(role, case):
    """All but one of the six operands in high precision."""
    recipe = only(role, ONE_SPEC[role])
    case = CASES[case]
    x, w, g = case.data()
    expected, exact = (case.oracle(x, w, g, r) for r in (recipe, BASELINE))
    assert_close(run(case, recipe, x, w, g), expected, TOLERANCE)
    for result, differs in zip(("y", "dx", "dw"), affected(recipe), strict=True):
        error = relative_error(expected[result], exact[result])
        if differs is not None:
            assert error > 0.01 if differs else error == 0


@pytest.mark.parametrize(
    ("case", "residuals"),
    diagonal(["2d_stride_2", "2d_transposed", "1d_groups"], ["quantized", "original"]),
)
def test_all_operands_stochastic_and_residuals(case, residuals):
    """Every operand draws its own bits; the backward pass sees the forward pass's Q(x), Q(w)."""
    spec = TensorSpec(rounding="stochastic_unbiased")
    pair = (spec, spec)
    recipe = fp4.Recipe(name="all", fprop=pair, dgrad=pair, wgrad=pair, residuals=residuals)
    case = CASES[case]
    x, w, g = case.data()
    assert_close(run(case, recipe, x, w, g), case.oracle(x, w, g, recipe), TOLERANCE)


@pytest.mark.parametrize(
    ("name", "case", "dtype"),
    diagonal(
        ["baseline", "chain_rule", "2d+rht+sr"],
        ["2d_stride_2", "2d_transposed"],
        [jnp.bfloat16, jnp.float16],
    ),
)
def test_half_precision(name, case, dtype):
    """Sums in float32, rounded once to the inputs' dtype."""
    case, recipe = CASES[case], fp4.get_recipe(name)
    x, w, g = case.data(dtype)
    # all values of a float16 or bfloat16 are float32 values; rotations round to bfloat16 only
    as_oracle = (lambda a: a) if dtype == jnp.bfloat16 else (lambda a: a.astype(np.float32))
    expected = case.oracle(*map(as_oracle, (x, w, g)), recipe)
    results = run(case, recipe, x, w, g)
    for name, result in results._asdict().items():
        assert result.dtype == dtype
        assert_half_precision(result, expected[name])


def assert_half_precision(actual, expected):
    """One rounding of a sum in float32."""
    error = np.abs(np.asarray(actual, np.float64) - expected)
    rounding = float(jnp.finfo(actual.dtype).eps) / 2 * np.abs(expected)
    assert expected.any()
    assert (error <= rounding * 1.01 + TOLERANCE * np.abs(expected).max()).all()


@pytest.mark.parametrize(
    ("name", "case"),
    diagonal(
        ["baseline", "forward_only", "chain_rule", "2d+rht+sr"], ["2d_stride_2", "2d_transposed"]
    ),
)
def test_preferred_element_type(name, case):
    """It is y's dtype; gradients keep their primals'."""
    case, recipe = CASES[case], fp4.get_recipe(name)
    x, w, _ = case.data(jnp.bfloat16)
    g = case.data()[2]
    f = three_gemms(lambda x, w: case(x, w, recipe, preferred_element_type=jnp.float32))
    results = jax.jit(f)(x, w, g)
    assert [a.dtype for a in results] == [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    expected = case.oracle(x, w, g, recipe)
    assert relative_error(results.y, expected["y"]) < TOLERANCE
    assert_half_precision(results.dx, expected["dx"])
    assert_half_precision(results.dw, expected["dw"])
