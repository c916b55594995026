"""Stochastic rounding of tensors: its mean, its repeatability, its independence of sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import fp4jax as fp4
from fp4jax import TensorSpec
from tests.samples import assert_same_bits, sample, scale_bytes

SR, UNBIASED = (TensorSpec(rounding=r) for r in ("stochastic", "stochastic_unbiased"))
SHAPE = (32, 64)
DRAWS = 8192
# Of a false alarm anywhere in a tensor, were the bits ideal.
PROBABILITY = 1e-6


def tensor(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, SHAPE) if kind == "student-t(3)" else rng.standard_normal(SHAPE)
    if kind == "wide":
        # block magnitudes from 2**-20 to 1: scales down to E4M3's subnormals and zero
        x *= 2 ** np.repeat(rng.uniform(-20, 0, (32, 4)), 16, axis=1)
    return x.astype(np.float32)


@functools.cache
def mean_of_draws(kind, spec):
    """E[Q(x)] estimated over independent keys, in float64."""
    x = tensor(kind)

    @jax.jit
    def sum_of(keys):
        return jax.vmap(lambda key: fp4.fake_quantize(x, spec, key=key))(keys).sum(axis=0)

    batches = jax.random.split(jax.random.key(42), (DRAWS // 64, 64))
    return sum(np.asarray(sum_of(keys), np.float64) for keys in batches) / DRAWS


def confidence(kind, spec):
    """Bernstein's inequality per element, for all elements at once; and where it applies.

    Q(x) is a Bernoulli variable of step h and probability p. With L = ln(2 n / PROBABILITY)

        P(|mean - x| > h (sqrt(2 p (1 - p) L / DRAWS) + L / (3 DRAWS))) <= PROBABILITY / n

    plus 24 bits' worth of h, plus the float32 rounding of the sums.
    """
    x = tensor(kind)
    q = fp4.quantize(x, spec, key=jax.random.key(0))
    unit = np.repeat(np.asarray(q.block_scales, np.float64), 16, axis=1) * float(q.tensor_scale)
    applies = np.repeat(scale_bytes(q.block_scales) >= 0x08, 16, axis=1)
    y = np.abs(x) / np.where(applies, unit, 1)
    step = np.where(y < 2, 0.5, np.where(y < 4, 1, 2))
    p = y / step % 1
    L = np.log(2 * x.size / PROBABILITY)
    bound = step * (np.sqrt(2 * p * (1 - p) * L / DRAWS) + L / (3 * DRAWS) + 2**-24)
    return bound * unit + 1e-5 * np.abs(x), applies


@pytest.mark.parametrize("kind", ["normal", "student-t(3)", "wide"])
def test_unbiased_rounding_is_unbiased(kind):
    """Wherever the scale byte is at least 0x08: every element's mean of 8192 draws is x."""
    x, mean = tensor(kind), mean_of_draws(kind, UNBIASED)
    bound, applies = confidence(kind, UNBIASED)
    assert applies.mean() == 1 if kind != "wide" else 0.6 < applies.mean() < 0.9
    excess = np.abs(mean - x) / bound
    assert excess[applies].max() < 1
    # the bound is no wider than it must be: some element comes within a third of it
    assert excess[applies].max() > 1 / 3


@pytest.mark.parametrize("kind", ["normal", "student-t(3)"])
def test_transformer_engines_rounding_is_biased(kind):
    """By about 1 % of the norm, because block maxima are clipped; and the check above sees it."""
    x = tensor(kind)
    bias = lambda spec: np.linalg.norm(mean_of_draws(kind, spec) - x) / np.linalg.norm(x)  # noqa: E731
    assert 0.009 < bias(SR) < 0.012
    assert bias(UNBIASED) < 0.003
    bound, _ = confidence(kind, SR)
    clipped = np.abs(mean_of_draws(kind, SR) - x) > bound
    assert 0.02 < clipped.mean() < 0.06


@pytest.mark.parametrize("spec", [SR, UNBIASED], ids=["stochastic", "stochastic_unbiased"])
def test_same_key_same_bits(spec):
    x = jnp.asarray(tensor("normal"))
    draw = lambda key: fp4.fake_quantize(x, spec, key=key)  # noqa: E731
    first = draw(jax.random.key(1))
    assert_same_bits(draw(jax.random.key(1)), first)
    assert_same_bits(jax.jit(draw)(jax.random.key(1)), first)
    assert 0.1 < (draw(jax.random.key(2)) != first).mean() < 0.9


# 64 columns over 8 devices: blocks of 16 lie across devices.
SHARDINGS = {"rows": P("a", None), "columns": P(None, "a"), "both": P("a", "b")}
MODES = ("Auto", "Explicit")
TILE = TensorSpec(block=(16, 16), rounding="stochastic_unbiased")


def sharded(x, partition, mode):
    """x on a mesh of all 8 devices, and the mesh."""
    assert jax.device_count() == 8
    sizes = (4, 2) if "b" in partition else (8,)
    axis_types = (jax.sharding.AxisType[mode],) * len(sizes)
    mesh = jax.make_mesh(sizes, ("a", "b")[: len(sizes)], axis_types=axis_types)
    return jax.device_put(x, NamedSharding(mesh, partition)), mesh


@pytest.mark.parametrize("partition", SHARDINGS.values(), ids=SHARDINGS)
@pytest.mark.parametrize("spec", [SR, TILE], ids=["row", "tile"])
def test_sharding_does_not_change_quantize(spec, partition):
    x, key = jnp.asarray(sample("normal", (64, 64))), jax.random.key(1)
    quantize = jax.jit(lambda x: fp4.quantize(x, spec, key=key))
    expected = quantize(x)
    jax.tree.map(assert_same_bits, quantize(sharded(x, partition, "Auto")[0]), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("partition", SHARDINGS.values(), ids=SHARDINGS)
@pytest.mark.parametrize("spec", [SR, TILE], ids=["row", "tile"])
def test_sharding_does_not_change_fake_quantize(spec, partition, mode):
    """Nor does fake_quantize change the sharding."""
    x, key = jnp.asarray(sample("normal", (64, 64))), jax.random.key(1)
    fake = jax.jit(lambda x: fp4.fake_quantize(x, spec, key=key))
    expected = fake(x)
    unplaced = x
    x, mesh = sharded(x, partition, mode)
    with jax.set_mesh(mesh):
        y = fake(x)
        assert_same_bits(fake(unplaced), expected)
    assert_same_bits(y, expected)
    assert y.sharding.is_equivalent_to(x.sharding, x.ndim)


def on_shards(function, x, in_specs):
    """What each of eight shards makes of x, which they share or of which each has a row."""
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.shard_map(function, mesh=mesh, in_specs=(in_specs, P()), out_specs=P("a"))
    return np.asarray(jax.jit(run)(x, jax.random.key(1)))


@pytest.mark.parametrize("spec", [SR, UNBIASED], ids=["stochastic", "stochastic_unbiased"])
def test_shards_with_one_key_round_independently(spec):
    """Equal rows, one on each shard: their errors are as independent as those of eight keys."""
    row = sample("normal", (1, 4096))
    rows = np.tile(row, (8, 1))
    draw = lambda x, key: fp4.fake_quantize(x, spec, key=key)  # noqa: E731
    drawn = on_shards(draw, rows, P("a"))
    errors = drawn - rows
    correlations = np.corrcoef(errors - errors.mean(axis=0))
    # Removing the mean of eight leaves -1/7 between independent ones; 5 standard deviations.
    others = correlations[~np.eye(8, dtype=bool)]
    assert np.abs(others + 1 / 7).max() < 5 / np.sqrt(row.size)
    # quantize has the same bits
    values = on_shards(lambda x, key: fp4.quantize(x, spec, key=key).dequantize(), rows, P("a"))
    assert_same_bits(values, drawn)
    if spec is UNBIASED:
        bias = np.linalg.norm(errors.mean(axis=0)) / np.linalg.norm(row)
        assert bias < 1.2 * np.linalg.norm(errors[0]) / np.linalg.norm(row) / np.sqrt(8)


def test_shards_of_what_they_share_round_alike():
    """A tensor that does not vary over the shards is the same on all of them, quantized too."""
    row = sample("normal", (1, 256))
    alike = on_shards(
        lambda x, key: jax.lax.pcast(fp4.fake_quantize(x, SR, key=key), "a", to="varying"),
        row,
        P(),
    )
    assert_same_bits(alike, np.tile(alike[:1], (8, 1)))
