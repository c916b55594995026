"""The random Hadamard transform: orthogonal, its own matrix, padded, and rounded once.

Most of it holds for both orders of summation; ``order`` runs a test with that of XLA:CPU's product,
which the last axis has there, and with pairs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard as sylvester

import fp4jax as fp4
from fp4jax.core import hadamard, reference
from fp4jax.core.hadamard import DEFAULT_SIGNS
from tests.core.test_golden import ENTRIES, FILES, compare, entries
from tests.oracle import hadamard as oracle
from tests.samples import assert_same_bits, eager_and_jit, on_grid, sample

OTHER_SIGNS = (-1, 1) * 8


def add_in_pairs(monkeypatch):
    """The order of summation on accelerators, along any axis."""
    monkeypatch.setattr(hadamard, "by_platform", lambda *args, cpu, default: default(*args))


@pytest.fixture(params=[False, True], ids=["product", "pairs"])
def order(request, monkeypatch):
    """The order of summation: of XLA's matrix product, or in pairs."""
    if request.param:
        add_in_pairs(monkeypatch)


either_order = pytest.mark.usefixtures("order")
signs_of_both = pytest.mark.parametrize("signs", [DEFAULT_SIGNS, OTHER_SIGNS], ids=["te", "other"])


def matrix(signs):
    """diag(signs) H16 / 4 in float64."""
    return np.diag(np.array(signs, np.float64)) @ sylvester(16) / 4


def rotated(x, axis, signs=DEFAULT_SIGNS):
    """In float64, padded."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % 16)])
    y = x.reshape(*x.shape[:-1], -1, 16) @ matrix(signs)
    return np.moveaxis(y.reshape(x.shape), -1, axis)


@either_order
@signs_of_both
def test_rows_of_the_identity_give_the_matrix(signs):
    y = fp4.random_hadamard(jnp.eye(16), signs=signs)
    np.testing.assert_array_equal(y, matrix(signs))
    np.testing.assert_array_equal(np.float64(y) @ np.float64(y).T, np.eye(16))
    assert fp4.random_hadamard(jnp.eye(16)).sum() == 4 * DEFAULT_SIGNS[0]


SHAPES = [
    ((16,), 0),
    ((5,), -1),
    ((48, 3), 0),
    ((2, 20, 3), 1),
    ((2, 3, 33), 2),
    ((17, 2, 2, 3), -4),
]


@either_order
@eager_and_jit
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_equals_the_matrix_along_any_axis(shape, axis, way):
    x = sample("normal", shape)
    y = way(lambda x: fp4.random_hadamard(x, axis))(x)
    expected = rotated(x, axis)
    assert (y.shape, y.dtype) == (expected.shape, jnp.float32)
    np.testing.assert_allclose(y, expected, atol=2e-6)


@either_order
@signs_of_both
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_inverse(shape, axis, signs):
    """Back to x and zeros where it was padded; exact where sums are."""
    x = on_grid(sample("normal", shape))
    y = fp4.random_hadamard(x, axis, signs)
    back = np.array(fp4.inverse_random_hadamard(y, axis, signs))
    assert back.shape == y.shape
    inside = tuple(slice(n) for n in shape)
    np.testing.assert_array_equal(back[inside], x)
    back[inside] = 0
    assert not back.any()


def test_it_cancels_in_a_product():
    x, w = sample("normal", (6, 32), 0), sample("normal", (32, 5), 1)
    product = fp4.random_hadamard(x, -1) @ fp4.random_hadamard(w, 0)
    np.testing.assert_allclose(product, x @ w, atol=2e-5)


@either_order
@eager_and_jit
def test_bfloat16_is_rotated_in_float32_and_rounded_once(way):
    """Sums of 16 bfloat16 numbers of like size are exact in float32, so the result is defined."""
    x = jnp.asarray(sample("normal", (20, 48)), jnp.bfloat16)
    y = way(fp4.random_hadamard)(x)
    expected = rotated(x, -1).astype(jnp.bfloat16)
    assert_same_bits(y, expected)
    assert_same_bits(y, oracle.rotate(np.asarray(x), 1))
    # and the rounding is there when the next step widens again
    widened = way(lambda x: fp4.random_hadamard(x).astype(jnp.float32))(x)
    assert_same_bits(widened, expected.astype(np.float32))


def in_pairs(x, signs=DEFAULT_SIGNS):
    """Rows of 16 in float32: neighbours are added, then neighbouring pairs, and so on."""
    y = x * (np.float32(signs) / np.float32(4))
    for bit in (1, 2, 4, 8):
        a, b = np.moveaxis(y.reshape(-1, 8 // bit, 2, bit), 2, 0)
        y = np.stack([a + b, a - b], axis=2).reshape(-1, 16)
    return y


@pytest.mark.parametrize("axis", [0, 1])
def test_order_in_pairs_is_defined(axis, monkeypatch):
    """Bit for bit, though no sum is exact; the inverse is the same tree with other signs.

    Along the first axis on CPU, too.
    """
    if axis == 1:
        add_in_pairs(monkeypatch)
    x = sample("normal", (48, 32), 0) * 2.0 ** sample("normal", (48, 32), 1).astype(np.float32)
    x[3:7, 5] = -0.0
    rows = np.moveaxis(x, axis, -1)
    for function, before, after in (
        (fp4.random_hadamard, DEFAULT_SIGNS, (1,) * 16),
        (fp4.inverse_random_hadamard, (1,) * 16, DEFAULT_SIGNS),
    ):
        expected = in_pairs(rows.reshape(-1, 16), before) * np.float32(after)
        y = np.moveaxis(np.asarray(jax.jit(functools.partial(function, axis=axis))(x)), axis, -1)
        assert_same_bits(y.reshape(-1, 16), expected)
        np.testing.assert_allclose(y, rotated(rows, -1) if before[3] < 0 else y, atol=1e-5)


def test_golden_vectors_in_pairs(golden, monkeypatch):
    """TransformerEngine's codes and scale bytes; test_golden.py has the order of products."""
    add_in_pairs(monkeypatch)

    @functools.cache
    def function(spec, axis):
        @jax.jit
        def compute(x):
            # Not fp4.quantize, whose traces of CPU's order would be taken.
            codes, scales, amax = reference.packed(x, None, spec, (axis % 2,))
            q = fp4.QTensor(codes, scales, amax, (axis % 2 - 2,), (x.shape[axis],), spec)
            codes, values = q.unpacked_codes(), q.dequantize(rotated=True)
            return q.codes, codes, q.block_scales, q.amax, values

        return compute

    file = golden(FILES[0])
    found = entries(file, "1d_rht")
    for entry in found:
        compare(file, entry, function, transpose=False)
    assert len(found) == ENTRIES["1d_rht"]


@pytest.mark.parametrize(
    ("dtype", "out"), [("float32", "float32"), ("float16", "float32"), ("bfloat16", "bfloat16")]
)
def test_dtypes(dtype, out):
    x = jnp.asarray(sample("normal", (3, 16)), dtype)
    assert fp4.random_hadamard(x).dtype == out
    assert fp4.inverse_random_hadamard(x).dtype == out


@either_order
def test_no_overflow_near_the_largest_float():
    """The sum of four is above FLT_MAX, its quarter is not."""
    x = np.zeros((1, 16), np.float32)
    x[0, :4] = 3e38
    np.testing.assert_allclose(fp4.random_hadamard(x), rotated(x, -1), rtol=1e-6, atol=1e32)


@either_order
def test_empty_and_nan():
    assert fp4.random_hadamard(jnp.zeros((0, 16))).shape == (0, 16)
    assert fp4.random_hadamard(jnp.zeros((3, 0))).shape == (3, 0)
    y = fp4.random_hadamard(jnp.zeros((2, 32)).at[0, 3].set(jnp.nan))
    assert np.isnan(y).tolist() == [[True] * 16 + [False] * 16, [False] * 32]


@either_order
def test_gradient_and_vmap():
    """Linear: the gradient of <y, g> is g rotated back."""
    x, g = sample("normal", (4, 32), 0), sample("normal", (4, 32), 1)
    gradient = jax.grad(lambda x: jnp.vdot(fp4.random_hadamard(x), g))(x)
    np.testing.assert_allclose(gradient, fp4.inverse_random_hadamard(g), atol=2e-6)
    assert_same_bits(jax.vmap(fp4.random_hadamard)(x), fp4.random_hadamard(x))


functions = pytest.mark.parametrize("function", [fp4.random_hadamard, fp4.inverse_random_hadamard])


@functions
@pytest.mark.parametrize("signs", [(1,) * 15, (1,) * 15 + (2,), (0,) * 16, (1,) * 17])
def test_bad_signs(function, signs):
    with pytest.raises(ValueError, match="give 16 numbers, each \\+1 or -1"):
        function(jnp.ones(16), signs=signs)


@functions
def test_bad_input(function):
    with pytest.raises(ValueError, match="has dtype int32"):
        function(jnp.ones(16, jnp.int32))
    with pytest.raises(ValueError, match="axis 1 is out of range for rank 1"):
        function(jnp.ones(16), 1)
    with pytest.raises(ValueError, match="rank 0"):
        function(jnp.float32(1))
