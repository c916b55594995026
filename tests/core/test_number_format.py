"""Formats other than NVFP4: their elements against ml_dtypes, bits against the oracle."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax.core import rounding, scale_types
from fp4jax.core.grids import E2M1, E4M3, E5M2, INT4, INT8
from tests.oracle import values as oracle
from tests.samples import assert_same_bits, normal, sample

GRIDS = (E2M1, E4M3, E5M2, fp4.Grid(2, 3), fp4.Grid(3, 2), INT4, INT8)
E3M2 = fp4.Format("e3m2_8", fp4.Grid(3, 2), 8, "e8m0")
#: All but NVFP4, a user's own, and one that is like NVFP4 in everything but its elements.
FORMATS = [fp4.get_format(name) for name in fp4.format_names()[1:]] + [E3M2]
RULES = ("floor", "ceil", "rceil", "even")


def slow_but(values, *names: str) -> list:
    """Parameters, slow but for those of the given names."""
    marks = {value.name: [] if value.name in names else [pytest.mark.slow] for value in values}
    return [pytest.param(v, id=v.name, marks=marks[v.name]) for v in values]


def stored(q: fp4.QTensor) -> np.ndarray:
    """Block scales, or the tensor scale, as the oracle has them."""
    if q.block_scales is None:
        return np.asarray(q.tensor_scale)
    scales = np.asarray(q.block_scales)
    return scales if scales.dtype == np.float32 else scales.view(np.uint8)


def expected(x, format: fp4.Format, rule: str | None = None) -> oracle.Quantized:
    rule = rule or format.rule
    return oracle.quantize(x, format.elements.name, format.block, format.scale, rule)


@pytest.mark.parametrize("grid", slow_but(GRIDS, "E4M3", "INT4"))
def test_a_grid_is_that_of_ml_dtypes(grid):
    """All codes; and rounding of every number, every midpoint and their neighbours."""
    assert grid.largest == oracle.largest(grid.name)
    magnitudes = np.arange(len(grid.values), dtype=np.uint8)
    assert_same_bits(grid.values.astype(np.float64), oracle.decode(grid.name, magnitudes))
    codes = np.concatenate([magnitudes, oracle.nearest(grid.name, -grid.values)])
    middle = (grid.values[1:] + grid.values[:-1]) / 2
    points = np.concatenate([grid.values, middle, [grid.maximum * 1.3, 1e30]]).astype(np.float32)
    near = np.concatenate([points, np.nextafter(points, np.float32(0)), points * (1 + 2**-23)])
    y = np.concatenate([near, -near]).astype(np.float32)

    @jax.jit
    def compute(codes, y):
        decoded = grid.decode(codes)
        return decoded, grid.encode(decoded), grid.encode(rounding.round_nearest(y, grid))

    decoded, again, rounded = compute(codes, y)
    assert_same_bits(np.asarray(decoded, np.float64), oracle.decode(grid.name, codes))
    assert_same_bits(again, codes)
    sign = np.uint8(0 if grid.integers else 2 ** (grid.bits - 1))
    # The sign of zero is kept, as ml_dtypes does.
    assert_same_bits(np.asarray(rounded) | sign, oracle.nearest(grid.name, y) | sign)


def test_rules_of_e8m0_scales():
    """Every float32 exponent with mantissas around those where a rule changes its mind."""
    mantissas = [1, 1 + 2**-23, 1.25, 1.5, 1.5 + 2**-22, 1.75, 1.75 + 2**-22, 1.875, 2 - 2**-23]
    b = np.outer(2.0 ** np.arange(-126, 128), mantissas).astype(np.float32).reshape(-1)
    b = np.concatenate([b, np.float32([0, np.inf, np.nan])])
    biased_exponent = jax.jit(scale_types.biased_exponent, static_argnums=(1, 2))
    for grid in (E2M1, E4M3, INT8):
        for rule in RULES:
            format = fp4.Format("any", grid, 32, "e8m0", rule=rule)
            found = biased_exponent(b, format, rule)
            exact = [oracle.exponent(float(v), grid.name, rule) for v in b]
            assert found.tolist() == exact, (grid.name, rule)


@pytest.mark.parametrize("format", slow_but(FORMATS, "mxfp4", "fp8", "int4"))
def test_bits_are_the_oracles(format):
    """Codes, scales and values; blocks of zeros, tiny and huge ones; a remainder that is padded."""
    spec = fp4.TensorSpec(format=format)
    x = np.concatenate([sample(kind, (3, 70)) for kind in ("normal", "wide", "heavy")])
    x[0, 32:64], x[1] = 0, x[1] * 2.0**-110
    x[2, :32] *= 2.0**110 if format.block else 1
    # A multiple of L / 2 for a tie in every element.
    x[3] = np.round(x[3]) / 2

    @jax.jit
    def compute(x):
        q = fp4.quantize(x, spec)
        return q, q.unpacked_codes(), q.dequantize(), fp4.fake_quantize(x, spec)

    (q, codes, values, fake), exact = compute(x), expected(x, format)
    sign = np.uint8(0 if format.elements.integers else 2 ** (format.elements.bits - 1))
    # Of a code that is zero the sign does not matter.
    zero = (exact.codes | sign) == sign
    assert_same_bits(np.where(zero, 0, codes), np.where(zero, 0, exact.codes))
    assert_same_bits(stored(q), exact.scales)
    normal_numbers = np.where(np.abs(exact.values) < 2.0**-126, 0, exact.values)
    assert_same_bits(np.abs(values), np.abs(normal_numbers).astype(np.float32))
    assert_same_bits(values, fake)
    assert q.nbytes == sum(a.nbytes for a in jax.tree.leaves(q))
    assert exact.values.any()


def test_an_axis_in_the_middle_is_the_last_one_moved():
    x, spec = normal(0, 3, 40, 2), fp4.TensorSpec(format="mxfp4")
    q, moved = fp4.quantize(x, spec, axis=1), fp4.quantize(jnp.moveaxis(x, 1, 2), spec)
    assert_same_bits(q.codes, moved.codes)
    assert_same_bits(q.dequantize(), jnp.moveaxis(moved.dequantize(), 2, 1))
    assert (q.shape, q.codes.shape, q.block_scales.shape) == ((3, 40, 2), (3, 2, 32), (3, 2, 2))


def test_rows_and_a_given_amax_of_formats_with_one_scale():
    """A row's scale is that of the row alone; a static amax is that of the batch that set it."""
    x = normal(1, 4, 33)
    rows = fp4.quantize(x, fp4.TensorSpec(format="int8", amax="row"))
    for i in range(4):
        assert_same_bits(rows.dequantize()[i], expected(np.asarray(x[i]), rows.spec.format).values)
    assert rows.tensor_scale.shape == (4, 1)
    plain, static = (fp4.TensorSpec(format="fp8", amax=amax) for amax in ("tensor", "static"))
    q = fp4.quantize(x, plain)
    assert_same_bits(fp4.quantize(x, static, amax=q.amax).codes, q.codes)
    assert float(jnp.abs(fp4.fake_quantize(x, static, amax=0.5)).max()) == 0.5


def test_stochastic_rounding_takes_a_neighbour():
    """Up if f * 2**n + r >= 2**n, on every grid."""
    random = np.arange(256, dtype=np.uint8)
    for grid in (E4M3, INT8):
        for low, high in (
            ((2.0, 3.0), (16.0, 17.0)) if grid.integers else ((2.0, 2.25), (16.0, 18.0))
        ):
            y = jnp.full(256, low + (high - low) / 4, jnp.float32)
            rounded = rounding.round_stochastic(y, jnp.asarray(random), grid)
            assert_same_bits(rounded, np.where(random >= 192, high, low).astype(np.float32))


def test_unbiased_rounding_clips_nothing():
    """Under the rule "floor" 7 becomes 6; unbiased it is 4 or 8 of a scale twice as large."""
    x = jnp.full((4096, 32), 7.0)
    spec = fp4.TensorSpec(format="mxfp4")
    assert (fp4.fake_quantize(x, spec) == 6).all()
    unbiased = dataclasses.replace(spec, rounding="stochastic_unbiased")
    y = fp4.fake_quantize(x, unbiased, key=jax.random.key(0))
    assert set(np.unique(y)) == {6.0, 8.0}
    # Of 131072 draws of 6 or 8, four standard deviations.
    assert abs(float(y.mean()) - 7) < 4 / 131072**0.5


@pytest.mark.parametrize("name", ["mxfp4", "int4", "fp8"])
def test_nan_and_inf_are_not_hidden(name):
    """They poison what shares their scale: the block, or the tensor. Zeros are zeros."""
    format, x = fp4.get_format(name), np.ones((2, 64), np.float32)
    quantize = jax.jit(lambda x: fp4.fake_quantize(x, fp4.TensorSpec(format=format)))
    reached = np.zeros((2, 64), bool)
    reached[(1, slice(32, 64)) if format.block else ...] = True
    for bad in (np.nan, np.inf, -np.inf):
        x[1, 40] = bad
        assert_same_bits(~np.isfinite(quantize(x)), reached)
    assert_same_bits(np.abs(quantize(np.zeros_like(x))), np.zeros((2, 64), np.float32))


def test_stacks_are_qtensors():
    x, spec = normal(2, 3, 4, 40), fp4.TensorSpec(format="mxfp8", hadamard=True)
    stacked = jax.vmap(lambda x: fp4.quantize(x, spec))(x)
    assert (stacked.amax, stacked.shape) == (None, (3, 4, 40))
    assert float(stacked.tensor_scale) == 1
    assert_same_bits(stacked.codes[1], fp4.quantize(x[1], spec).codes)
    assert jax.eval_shape(fp4.QTensor.unpacked_codes, stacked).shape == (3, 4, 48)
    error = jax.jit(fp4.QTensor.dequantize)(stacked) - x
    assert float(jnp.linalg.norm(error) / jnp.linalg.norm(x)) < 0.05


def test_gradients_pass_straight_through():
    x = normal(3, 2, 40).astype(jnp.bfloat16)
    spec = fp4.TensorSpec(format="int4")
    y, gradient = jax.value_and_grad(lambda x: (fp4.fake_quantize(x, spec) * 3).sum())(x)
    assert gradient.dtype == y.dtype == jnp.bfloat16
    assert (gradient == 3).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fp4.TensorSpec(format="fp5"), "no format 'fp5'; known names: nvfp4, mxfp4"),
        (lambda: fp4.TensorSpec(format="mxfp4", amax="row"), "mxfp4 has no tensor scale"),
        (lambda: fp4.TensorSpec(format="mxfp4", block=(1, 16)), r"allowed: \(1, 32\), \(32, 32\)"),
        (lambda: fp4.TensorSpec(format="fp8", block=(1, 16)), "fp8 has no block scales"),
        (lambda: fp4.TensorSpec(format="mxfp4", scaling="four_over_six"), "use nvfp4"),
        (lambda: fp4.TensorSpec(format={"name": "x"}), "is no format"),
        (lambda: fp4.Grid(5, 3), "Grid has 5 bits of exponent and 3 of mantissa"),
        (lambda: fp4.Grid(2, 1, largest=5), "one of the numbers of E2M1"),
        (lambda: fp4.Format("a", INT8, 15), "Format.block is 15; give an even number"),
        (lambda: fp4.Format("a", INT8, 16, rule="floor"), "rule is 'floor' with scale='float32'"),
        (lambda: fp4.Format("a", INT8, 16, two_level=True), "two_level needs scale='e4m3'"),
        (lambda: fp4.Format("a b", INT8, 16), "the name of a format is 'a b'"),
        (lambda: fp4.register_format(dataclasses.replace(E3M2, name="int8")), "another format"),
        (
            lambda: fp4.quantize(
                jnp.ones(32), fp4.TensorSpec(format="fp8"), implementation="fused"
            ),
            "the kernels are NVFP4's",
        ),
        (
            lambda: fp4.kernels.scaled_matmul(
                jnp.ones((2, 32)),
                fp4.quantize(jnp.ones((32, 2)), fp4.TensorSpec(format="mxfp4"), 0),
            ),
            "b is in mxfp4; scaled_matmul multiplies nvfp4",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_are_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_level_of_e4m3_scales():
    """What other libraries call NVFP4 without a tensor scale: s = E4M3(fl(b * fl(1/6)))."""
    spec = fp4.TensorSpec(format=fp4.Format("one", E2M1, 16, "e4m3"))
    x = sample("normal", (4, 32))
    q = fp4.quantize(x, spec)
    scale = np.abs(x.reshape(4, 2, 16)).max(-1) * np.float32(1 / 6)
    scale = scale.astype(ml_dtypes.float8_e4m3fn)
    assert q.amax is None
    assert_same_bits(np.asarray(q.block_scales).view(np.uint8), scale.view(np.uint8))
    per_element = np.repeat(scale.astype(np.float32), 16, axis=1)
    codes = oracle.nearest("E2M1", x * (np.float32(1) / per_element))
    assert_same_bits(q.unpacked_codes(), codes)
