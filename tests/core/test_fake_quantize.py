"""fake_quantize: quantize then dequantize, in the input's dtype, with gradient one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fp4jax as fp4
from fp4jax import TensorSpec
from tests.samples import SPECS, assert_same_bits, sample, spec_id

KEY = jax.random.key(5)
SHAPE = (18, 5, 35)
AXES = {0: (0, 1), 1: (1, -1), -1: (2, 0)}  # one axis, and the pair for 16x16
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
# A path is a spec whose arithmetic is not that of another with other constants.
PATHS = [spec for spec in SPECS if spec.scaling == "amax"]
PATHS += [TensorSpec(scaling="four_over_six"), TensorSpec(scaling="four_over_six", block=(16, 16))]

EVERYTHING = list(itertools.product(SPECS, AXES, DTYPES))
# Along one axis in one dtype each, so that all axes and dtypes occur with each kind.
SOME = [
    (spec, axis, DTYPES[(i + j) % 3])
    for i, spec in enumerate(SPECS)
    for j, axis in enumerate(AXES)
    if i % 3 == j
]
paths = pytest.mark.parametrize("spec", PATHS, ids=spec_id)


dequantize = jax.jit(fp4.QTensor.dequantize, static_argnums=1)


def axis_of(spec, axis):
    return AXES[axis] if spec.block == (16, 16) else axis


def definition(x, spec, axis):
    """quantize().dequantize(), in x's dtype.

    In separate programs: the order of a rotation's sums is up to XLA, and to what surrounds it.
    """
    return dequantize(fp4.quantize(x, spec, axis, KEY), x.dtype)


def check(spec, axis, dtype):
    axis = axis_of(spec, axis)
    x = jnp.asarray(sample("normal", SHAPE), dtype)
    y = fp4.fake_quantize(x, spec, axis, KEY)
    assert_same_bits(y, definition(x, spec, axis))
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    x, y = np.float32(x), np.float32(y)
    assert 0.05 < np.linalg.norm(y - x) / np.linalg.norm(x) < 0.2


def case_id(value):
    return spec_id(value) if isinstance(value, TensorSpec) else getattr(value, "__name__", value)


@pytest.mark.parametrize(("spec", "axis", "dtype"), SOME, ids=case_id)
def test_is_quantize_then_dequantize(spec, axis, dtype):
    check(spec, axis, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "axis", "dtype"), EVERYTHING, ids=case_id)
def test_is_quantize_then_dequantize_everywhere(spec, axis, dtype):
    check(spec, axis, dtype)


@paths
def test_compiled_is_not_compiled(spec):
    """As part of a larger program, too."""
    x = jnp.asarray(sample("normal", SHAPE))
    f = lambda x: fp4.fake_quantize(x, spec, axis_of(spec, 0), KEY)  # noqa: E731
    y, negated = jax.jit(lambda x: (f(x), -f(-x)))(x)
    assert_same_bits(y, f(x))
    assert_same_bits(negated, -f(-x))


@paths
def test_gradient_is_one_in_both_modes(spec):
    dtype = DTYPES[PATHS.index(spec) % 3]
    x, cotangent = (jnp.asarray(sample(kind, SHAPE), dtype) for kind in ("normal", "heavy"))
    f = lambda x: fp4.fake_quantize(x, spec, axis_of(spec, 1), KEY)  # noqa: E731
    y, vjp = jax.vjp(f, x)
    assert_same_bits(vjp(cotangent)[0], cotangent)
    primal, tangent = jax.jvp(f, (x,), (cotangent,))
    assert_same_bits(tangent, cotangent)
    assert_same_bits(primal, y)


def test_gradient_in_code_that_uses_the_value():
    """d/dx sum Q(x)**2 = 2 Q(x), through jit, vmap, scan and remat."""
    x = jnp.asarray(sample("normal", (3, 32)))
    loss = lambda x: (fp4.fake_quantize(x, TensorSpec()) ** 2).sum()  # noqa: E731
    scanned = lambda x: jax.lax.scan(lambda c, row: (c + loss(row), None), 0.0, x)[0]  # noqa: E731
    expected = np.stack(
        [2 * jax.jit(fp4.fake_quantize, static_argnums=1)(row, TensorSpec()) for row in x]
    )
    for f in (loss, jax.jit(loss), jax.checkpoint(loss)):
        assert_same_bits(jax.jit(jax.vmap(jax.grad(f)))(x), expected)
    assert_same_bits(jax.jit(jax.grad(scanned))(x), expected)


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic_unbiased"])
def test_vmap_over_keys(rounding):
    spec = TensorSpec(rounding=rounding)
    x, keys = jnp.asarray(sample("normal", (6, 20))), jax.random.split(KEY, 3)
    draw = jax.jit(lambda key: fp4.fake_quantize(x, spec, key=key))
    batched = np.asarray(jax.jit(jax.vmap(draw))(keys))
    for y, key in zip(batched, keys, strict=True):
        assert_same_bits(y, draw(key))
    assert (batched[0] != batched[1]).any()


def test_one_compilation_for_equal_specs():
    traces = []

    def f(x, spec):
        traces.append(spec)
        return fp4.fake_quantize(x, spec)

    compiled = jax.jit(f, static_argnums=1)
    for _ in range(2):
        compiled(jnp.ones((4, 16)), TensorSpec(block=(16, 16)))
    assert len(traces) == 1
