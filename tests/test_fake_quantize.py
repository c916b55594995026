"""fake_quantize: quantize then dequantize, in the input's dtype, with gradient one."""

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


def inputs():
    x = sample("normal", SHAPE)
    return [jnp.asarray(x, dtype) for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)]


def definition(x, spec, axis):
    """quantize().dequantize(), rotated back and cut to x's length, in x's dtype."""
    q = fp4.quantize(x, spec, axis, KEY)
    if not spec.hadamard:
        return q.dequantize(x.dtype)
    y = fp4.inverse_random_hadamard(q.dequantize(), axis)
    return jax.lax.slice_in_dim(y, 0, x.shape[axis], axis=axis).astype(x.dtype)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_is_quantize_then_dequantize(spec, axis):
    """In every dtype, no axis a multiple of 16."""
    axis = AXES[axis] if spec.block == (16, 16) else axis
    for x in inputs():
        y = fp4.fake_quantize(x, spec, axis, KEY)
        assert_same_bits(y, definition(x, spec, axis))
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        x, y = np.float32(x), np.float32(y)
        assert 0.05 < np.linalg.norm(y - x) / np.linalg.norm(x) < 0.2


def check_compiled(spec, axis, x):
    axis = AXES[axis] if spec.block == (16, 16) else axis
    quantize = lambda x: fp4.fake_quantize(x, spec, axis, KEY)  # noqa: E731
    assert_same_bits(jax.jit(quantize)(x), quantize(x))


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_compiled_is_not_compiled(spec):
    """One axis and dtype each, all of them over the specs."""
    number = SPECS.index(spec)
    check_compiled(spec, list(AXES)[number % 3], inputs()[number // 3 % 3])


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_compiled_is_not_compiled_anywhere(spec, axis):
    for x in inputs():
        check_compiled(spec, axis, x)


@pytest.mark.parametrize("spec", SPECS, ids=spec_id)
def test_gradient_is_one_in_both_modes(spec):
    for x in inputs():
        cotangent = jnp.asarray(sample("heavy", SHAPE), x.dtype)
        f = lambda x: fp4.fake_quantize(x, spec, key=KEY)  # noqa: E731
        y, vjp = jax.vjp(f, x)
        assert_same_bits(vjp(cotangent)[0], cotangent)
        primal, tangent = jax.jvp(f, (x,), (cotangent,))
        assert_same_bits(tangent, cotangent)
        assert_same_bits(primal, y)
    grad = jax.jit(jax.grad(lambda x: fp4.fake_quantize(x, spec, key=KEY).sum()))(x)
    assert_same_bits(grad, jnp.ones_like(x))


def test_gradient_in_code_that_uses_the_value():
    """d/dx sum Q(x)**2 = 2 Q(x), through jit, vmap, scan and remat."""
    x = jnp.asarray(sample("normal", (3, 32)))
    loss = lambda x: (fp4.fake_quantize(x, TensorSpec()) ** 2).sum()  # noqa: E731
    expected = jnp.stack([2 * fp4.fake_quantize(row, TensorSpec()) for row in x])
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        assert_same_bits(jax.vmap(jax.grad(wrap(loss)))(x), expected)
    scanned = jax.grad(lambda x: jax.lax.scan(lambda c, row: (c + loss(row), None), 0.0, x)[0])
    assert_same_bits(scanned(x), expected)


@pytest.mark.parametrize("rounding", ["stochastic", "stochastic_unbiased"])
def test_vmap_over_keys(rounding):
    spec = TensorSpec(rounding=rounding)
    x, keys = jnp.asarray(sample("normal", (6, 20))), jax.random.split(KEY, 3)
    draw = lambda key: fp4.fake_quantize(x, spec, key=key)  # noqa: E731
    batched = jax.vmap(draw)(keys)
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
