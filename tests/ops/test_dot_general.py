"""dot_general with a recipe: its three GEMMs against the oracle, everything else against lax."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fp4jax as fp4
from fp4jax import Recipe, TensorSpec
from fp4jax.core import rounding
from fp4jax.ops.recipe import ROLES
from tests.checks import assert_close, assert_same_sums, diagonal, relative_error, three_gemms
from tests.oracle import dot as oracle
from tests.samples import assert_same_bits, on_grid, sample

KEY = jax.random.key(5)
TOLERANCE = 2e-6
CASES = {  # shapes of x and w, dimension_numbers
    "plain": ((20, 40), (40, 24), (((1,), (0,)), ((), ()))),
    "x of rank 3": ((3, 5, 33), (33, 7), (((2,), (0,)), ((), ()))),
    "w transposed": ((20, 40), (24, 40), (((1,), (1,)), ((), ()))),
    "batch": ((4, 3, 8, 5), (5, 4, 9, 8), (((2, 3), (3, 0)), ((0,), (1,)))),
    "outer": ((17,), (2, 20), (((), ()), ((), ()))),
    "inner": ((37,), (37,), (((0,), (0,)), ((), ()))),
}
PLAIN = CASES["plain"]
cases = pytest.mark.parametrize(("x_shape", "w_shape", "dims"), CASES.values(), ids=CASES)
recipes = pytest.mark.parametrize("name", fp4.recipes())


def data(x_shape, w_shape, dims, dtype=np.float32):
    """x, w and a cotangent on which rotations are exact."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (x_shape, w_shape)]
    y = jax.eval_shape(lambda x, w: lax.dot_general(x, w, dims), *shapes)
    arrays = [on_grid(sample("normal", s, i)) for i, s in enumerate((x_shape, w_shape, y.shape))]
    return [jnp.asarray(a, dtype) for a in arrays]


def call(dims, recipe, **options):
    return lambda x, w: fp4.dot_general(x, w, dims, recipe=recipe, key=KEY, **options)


def oracle_results(x, w, g, dims, recipe):
    """y, dx and dw with the bits that fp4jax draws."""

    def bits(role, shape):
        width = recipe.operands[ROLES.index(role)].random_bits
        return np.asarray(
            rounding.random_bits(jax.random.fold_in(KEY, ROLES.index(role)), shape, width)
        )

    return oracle.dot_general(*map(np.asarray, (x, w, g)), dims, recipe, bits)


def check(name, case):
    *shapes, dims = CASES[case]
    x, w, g = data(*shapes, dims)
    recipe = fp4.get_recipe(name)
    results = jax.jit(three_gemms(call(dims, recipe)))(x, w, g)
    assert_close(results, oracle_results(x, w, g, dims, recipe), TOLERANCE)
    return results


@pytest.mark.parametrize(("name", "case"), diagonal(fp4.recipes()[1:8], ["batch", "outer"]))
def test_equals_the_oracle(name, case):
    check(name, case)


@pytest.mark.parametrize("case", ["x of rank 3", "w transposed", "inner"])
def test_other_shapes_equal_the_oracle(case):
    check("2d+rht+sr", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@recipes
def test_everything_equals_the_oracle(name, case):
    check(name, case)


@recipes
def test_quantizes_where_the_recipe_says(name):
    """Equal to the oracle, and as far from high precision as 4 bits are."""
    x, w, g = data(*PLAIN)
    recipe, results = fp4.get_recipe(name), check(name, "plain")
    high_precision = three_gemms(call(PLAIN[2], "baseline"))(x, w, g)
    for gemm_name in ("y", "dx", "dw"):
        error = relative_error(getattr(results, gemm_name), getattr(high_precision, gemm_name))
        quantized = {"y": recipe.fprop, "dx": recipe.dgrad, "dw": recipe.wgrad}[gemm_name]
        if gemm_name == "dx" and recipe.fprop[0] is not None and recipe.fprop[0].clip != 1:
            # What is clipped has no gradient.
            assert error > 0.01
        elif any(quantized) or (recipe.residuals == "quantized" and gemm_name != "y"):
            assert 0.01 < error < 0.3
        else:
            assert error < TOLERANCE


def test_compiled_is_not_compiled():
    """Up to the order of sums, which is up to XLA."""
    f = three_gemms(call(PLAIN[2], "2d+rht+sr"))
    assert_close(jax.jit(f)(*data(*PLAIN)), f(*data(*PLAIN)), TOLERANCE)


@pytest.mark.parametrize("role", ROLES)
def test_each_operand_alone(role):
    """Of stochastic 1x16 specs only one is set: the bits of each role, and its block axis."""
    x, w, g = data(*CASES["batch"])
    gemm_name, i = role.split(".")[0], ROLES.index(role) % 2
    spec = TensorSpec(rounding="stochastic")
    pair = (spec, None) if i == 0 else (None, spec)
    recipe = Recipe(name=role, **{gemm_name: pair})
    dims = CASES["batch"][2]
    expected = oracle_results(x, w, g, dims, recipe)
    assert_close(jax.jit(three_gemms(call(dims, recipe)))(x, w, g), expected, TOLERANCE)


@pytest.mark.parametrize("name", ["full", "chain_rule", "2d+rht+sr"])
def test_bfloat16(name):
    """The oracle's result, from bfloat16 x, w and g, rounded to bfloat16."""
    x, w, g = data(*PLAIN, jnp.bfloat16)
    recipe = fp4.get_recipe(name)
    results = jax.jit(three_gemms(call(PLAIN[2], recipe)))(x, w, g)
    assert {leaf.dtype for leaf in results} == {jnp.dtype(jnp.bfloat16)}
    assert_close(results, oracle_results(x, w, g, PLAIN[2], recipe), 2**-8)


@pytest.mark.parametrize("name", ["baseline", "full"])
def test_preferred_element_type(name):
    x, w, g = data(*PLAIN, jnp.bfloat16)
    f = jax.jit(three_gemms(call(PLAIN[2], name, preferred_element_type=jnp.float32)))
    y, dx, dw = f(x, w, g.astype(jnp.float32))
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    expected = oracle_results(x, w, g.astype(jnp.float32), PLAIN[2], fp4.get_recipe(name))
    assert relative_error(y, expected["y"]) < TOLERANCE
    assert relative_error(dx, expected["dx"]) < 2**-8
    assert relative_error(dw, expected["dw"]) < 2**-8


def test_mixed_dtypes_as_in_lax():
    x, w, _ = data(*PLAIN)
    mixed = (x.astype(jnp.bfloat16), w)
    f = call(PLAIN[2], "full", preferred_element_type=jnp.float32)
    expected = lax.dot_general(*mixed, PLAIN[2], preferred_element_type=jnp.float32)
    assert f(*mixed).dtype == expected.dtype
    assert 0.01 < relative_error(f(*mixed), expected) < 0.2
    gradients = jax.grad(lambda *a: f(*a).sum(), (0, 1))(*mixed)
    assert [d.dtype for d in gradients] == [jnp.bfloat16, jnp.float32]


def test_signature_is_lax_plus_what_quantizes():
    ours = inspect.signature(fp4.dot_general).parameters
    theirs = inspect.signature(lax.dot_general).parameters
    optional = ["key", "amax", "axis_name", "switches"]
    assert list(ours) == [*theirs, "recipe", *optional]
    for name, parameter in theirs.items():
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default)
    assert ours["recipe"].default is inspect.Parameter.empty
    assert {ours[name].default for name in optional} == {None}


@cases
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_baseline_is_lax(x_shape, w_shape, dims, dtype):
    arrays = data(x_shape, w_shape, dims, dtype)
    expected = three_gemms(lambda x, w: lax.dot_general(x, w, dims))(*arrays)
    jax.tree.map(assert_same_sums, three_gemms(call(dims, "baseline"))(*arrays), expected)


def test_forward_mode_of_what_quantizes_nothing():
    *shapes, dims = CASES["x of rank 3"]
    x, w, _ = data(*shapes, dims)
    theirs = jax.jvp(lambda x: lax.dot_general(x, w, dims), (x,), (x,))
    ours = jax.jvp(lambda x: call(dims, "baseline")(x, w), (x,), (x,))
    jax.tree.map(assert_same_sums, ours, theirs)


@pytest.mark.parametrize("name", ["full", "2d+rht+sr", "forward_only+rht"])
@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_operands(name, m, k, n):
    f = jax.jit(three_gemms(call(PLAIN[2], name)))
    results = f(jnp.ones((m, k)), jnp.ones((k, n)), jnp.ones((m, n)))
    assert [leaf.shape for leaf in results] == [(m, n), (m, k), (k, n)]
    assert not any(np.any(leaf) for leaf in results)


def test_zero_and_nonfinite_operands():
    x, w, g = data(*PLAIN)
    f = jax.jit(three_gemms(call(PLAIN[2], "full")))
    y, dx, dw = f(0 * x, w, g)
    assert not y.any()
    assert not dw.any()
    assert dx.any()
    y, dx, dw = f(x.at[3, 5].set(np.nan), w, g)
    assert np.isnan(y).all()
    assert np.isnan(dw).all()
    assert np.isfinite(dx).all()


def test_key_decides_the_bits():
    x, w, g = data(*PLAIN)
    f = jax.jit(
        three_gemms(lambda x, w, key: fp4.dot_general(x, w, PLAIN[2], recipe="sr", key=key))
    )
    first, again, other = (f(x, w, g, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(assert_same_bits, first, again)
    assert_same_bits(first.y, other.y)
    assert (first.dx != other.dx).any()
    assert (first.dw != other.dw).any()


@pytest.mark.parametrize(
    ("spec", "shared"),
    [
        (TensorSpec(block=(16, 16)), True),
        (TensorSpec(block=(16, 16), scaling="four_over_six"), True),
        (TensorSpec(), False),
    ],
)
def test_tiles_of_w_serve_fprop_and_dgrad(spec, shared):
    """With x = g = 1: y = Q(w), dx = Q(w)^T; 1x16 blocks lie along k there and along n here."""
    one, w = jnp.eye(32), jnp.asarray(sample("normal", (32, 32)))
    recipe = Recipe(name="w", fprop=(None, spec), dgrad=(None, spec))
    y, dx, _ = jax.jit(three_gemms(call(PLAIN[2], recipe)))(one, w, one)
    assert (y != w).mean() > 0.9
    assert (y == dx.T).all() == shared


def test_dgrad_and_wgrad_draw_independently():
    """With x = w = 1 and equal maxima in all rows and columns of g, equal bits give dx = dw."""
    g = np.clip(sample("normal", (16, 16)), -5, 5)
    np.fill_diagonal(g, 6)
    one = jnp.eye(16)

    def gradients(spec):
        recipe = Recipe(name="g", dgrad=(spec, None), wgrad=(None, spec))
        _, dx, dw = jax.jit(three_gemms(call(PLAIN[2], recipe)))(one, one, jnp.asarray(g))
        return dx, dw

    assert_same_bits(*gradients(TensorSpec()))
    dx, dw = gradients(TensorSpec(rounding="stochastic"))
    assert 0.1 < (dx != dw).mean() < 0.6


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64, jnp.float8_e4m3fn])
@pytest.mark.parametrize("side", [0, 1])
def test_other_dtypes_are_refused(dtype, side):
    operands = [jnp.ones((4, 4)), jnp.ones((4, 4))]
    operands[side] = operands[side].astype(dtype)
    message = rf"{['lhs', 'rhs'][side]} has dtype {jnp.dtype(dtype).name}"
    with pytest.raises(ValueError, match=message):
        call(PLAIN[2], "full")(*operands)


@pytest.mark.parametrize("name", [name for name in fp4.recipes() if "sr" in name])
def test_a_missing_key_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"recipe '{name}' .*key is None; pass key=".replace("+", r"\+")
    ):
        fp4.dot_general(jnp.ones((4, 4)), jnp.ones((4, 4)), PLAIN[2], recipe=name)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="no recipe 'fp4'; known names"):
        call(PLAIN[2], "fp4")(jnp.ones((4, 4)), jnp.ones((4, 4)))


def test_wrong_shapes_are_refused_as_by_lax():
    with pytest.raises(TypeError, match="contracting dimensions"):
        call(PLAIN[2], "full")(jnp.ones((4, 5)), jnp.ones((4, 4)))
