"""Rounding to E2M1: against ml_dtypes' cast, and the probability of going up counted exactly."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import stats

from fp4jax.core import rounding
from tests.oracle import formats as oracle
from tests.samples import assert_same_bits, eager_and_jit

GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def points():
    """[-6, 6] densely, and each E2M1 value and midpoint with the numbers next to it."""
    exact = np.concatenate([GRID, (GRID[1:] + GRID[:-1]) / 2])
    near = np.concatenate([exact, np.nextafter(exact, 0), np.nextafter(exact, np.float32(6))])
    return np.concatenate([near, -near, np.linspace(-6, 6, 10001, dtype=np.float32)])


def neighbours(y):
    """Lower neighbour's magnitude, fraction of the way to the upper one, both exact in float64."""
    magnitude = np.abs(y).astype(np.float64)
    lower = np.searchsorted(GRID, magnitude, side="right") - 1
    low, high = GRID[lower].astype(np.float64), np.append(GRID, np.inf)[lower + 1]
    return low, (magnitude - low) / (high - low)


@eager_and_jit
def test_round_nearest_is_the_cast(way):
    y = points()
    expected = y.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert len(np.unique(expected)) == 15
    assert_same_bits(way(rounding.round_nearest)(jnp.asarray(y)), expected)


def test_round_nearest_keeps_the_grid():
    grid = np.concatenate([GRID, -GRID])
    assert_same_bits(rounding.round_nearest(jnp.asarray(grid)), grid)


def test_stochastic_probability_with_8_bits():
    """Of the 256 values of the bits, floor(f * 256) round up."""
    y = points()
    low, fraction = neighbours(y)
    bits = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, y.size))
    rounded = rounding.round_stochastic(jnp.broadcast_to(y, bits.shape), jnp.asarray(bits))
    magnitude = np.abs(rounded)
    assert (np.sign(rounded) * np.sign(y) >= 0).all()
    ups = (magnitude != low).sum(axis=0)
    np.testing.assert_array_equal(ups, np.floor(fraction * 256))
    # up is the next value of the grid
    upper = GRID[np.minimum(np.searchsorted(GRID, low) + 1, 7)]
    assert ((magnitude == low) | (magnitude == upper)).all()


@eager_and_jit
def test_stochastic_probability_with_24_bits(way):
    """floor(f * 2**24) values of the bits round up: the largest ones."""
    y = points()
    low, fraction = neighbours(y)
    threshold = 2**24 - np.floor(fraction * 2**24).astype(np.int64)
    for bits, up in (
        (np.zeros(y.shape), np.zeros(y.shape, bool)),
        (np.full(y.shape, 2**24 - 1), fraction * 2**24 >= 1),
        (np.minimum(threshold, 2**24 - 1), threshold < 2**24),
        (threshold - 1, np.zeros(y.shape, bool)),
    ):
        rounded = way(rounding.round_stochastic)(
            jnp.asarray(y), jnp.asarray(bits.astype(np.uint32))
        )
        np.testing.assert_array_equal(np.abs(rounded) != low, up)


@pytest.mark.parametrize(("width", "dtype"), [(8, np.uint8), (24, np.uint32)])
def test_stochastic_equals_the_oracle(width, dtype):
    y = points()
    bits = np.random.default_rng(0).integers(0, 2**width, y.shape)
    codes = oracle.e2m1_stochastic(y, bits, width)
    rounded = rounding.round_stochastic(jnp.asarray(y), jnp.asarray(bits.astype(dtype)))
    np.testing.assert_array_equal(rounded, oracle.e2m1_decode(codes))
    assert (rounded != rounding.round_nearest(jnp.asarray(y))).any()


def test_stochastic_refuses_other_bits():
    with pytest.raises(ValueError, match="int32; use uint8"):
        rounding.round_stochastic(jnp.zeros(3), jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize(("width", "dtype"), [(8, jnp.uint8), (24, jnp.uint32)])
@pytest.mark.parametrize(
    "shape", [(), (0,), (1,), (2,), (3,), (5,), (16,), (3, 0), (3, 5), (2, 3, 7)]
)
def test_bits_have_shape_and_dtype(width, dtype, shape):
    bits = rounding.random_bits(jax.random.key(1), shape, width)
    assert (bits.shape, bits.dtype) == (shape, dtype)
    assert (bits.astype(jnp.uint32) < 2**width).all()


def test_bits_of_other_width():
    with pytest.raises(ValueError, match="width is 16; 8 and 24"):
        rounding.random_bits(jax.random.key(0), (3,), 16)


@pytest.mark.parametrize("width", [8, 24])
def test_bits_depend_on_key_and_flat_index_only(width):
    key = jax.random.key(3)
    flat = rounding.random_bits(key, (3 * 5 * 7,), width)
    assert_same_bits(rounding.random_bits(key, (3, 5, 7), width).reshape(-1), flat)
    assert_same_bits(rounding.random_bits(key, (105 - 2,), width), flat[:-2])
    assert_same_bits(jax.jit(rounding.random_bits, static_argnums=(1, 2))(key, (105,), width), flat)
    assert_same_bits(rounding.random_bits(jax.random.PRNGKey(3), (105,), width), flat)
    other = rounding.random_bits(jax.random.key(4), (105,), width)
    assert (other != flat).mean() > 0.9


@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize(
    "make_keys", [jax.random.split, lambda key, n: jax.random.key_data(jax.random.split(key, n))]
)
def test_bits_under_vmap(width, make_keys):
    keys = make_keys(jax.random.key(0), 3)
    batched = jax.vmap(lambda key: rounding.random_bits(key, (5, 3), width))(keys)
    for bits, key in zip(batched, keys, strict=True):
        assert_same_bits(bits, rounding.random_bits(key, (5, 3), width))


N = 2**18
# A statistic this far in the tail of its distribution is no accident: 1e-6 on either side.
TAIL = 1e-6


def assert_uniform(counts):
    """Pearson's chi-square of counts that should be equal: neither too uneven nor too even."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    low, high = stats.chi2.ppf([TAIL, 1 - TAIL], counts.size - 1)
    assert low < statistic < high


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("width", "shift"), [(8, 0), (24, 0), (24, 8), (24, 16)])
def test_bits_are_uniform(seed, width, shift):
    bits = np.asarray(rounding.random_bits(jax.random.key(seed), (N,), width)) >> shift
    assert_uniform(np.bincount(bits & 255, minlength=256))


def assert_independent(a, b):
    """The pairs of two 4-bit sequences are uniform over 256 cells."""
    assert_uniform(np.bincount(a.astype(np.int64) * 16 + b, minlength=256))


@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 16, 64, 4096])
def test_neighbours_are_independent(width, lag):
    bits = np.asarray(rounding.random_bits(jax.random.key(0), (N,), width))
    for part in (bits & 15, bits >> (width - 4)):
        assert_independent(part[:-lag], part[lag:])


def test_both_halves_of_the_key_matter():
    counter, seed = jnp.arange(N, dtype=jnp.uint32), jnp.array([123, 456], jnp.uint32)
    plain = np.asarray(rounding.hash_counter(counter, seed)) >> 28
    for other in ([124, 456], [123, 457], [123 + 2**31, 456], [123, 456 + 2**31]):
        assert_independent(
            plain, np.asarray(rounding.hash_counter(counter, jnp.array(other, jnp.uint32))) >> 28
        )


@pytest.mark.parametrize("width", [8, 24])
def test_keys_are_independent(width):
    """Of neighbouring seeds, and of keys folded from one as layers and steps do."""
    key = jax.random.key(0)
    keys = [key, jax.random.key(1), jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)]
    draws = [np.asarray(rounding.random_bits(k, (N,), width)) >> (width - 4) for k in keys]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert_independent(a, b)
