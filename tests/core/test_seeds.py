"""Seeds of operands: jax.random's own draws, for many keys at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import fp4jax as fp4
from fp4jax.core import seeds
from fp4jax.ops.recipe import ROLES
from fp4jax.ops.role_keys import role_keys
from tests.samples import assert_same_bits, eager_and_jit, sample

SPEC = fp4.TensorSpec(rounding="stochastic")


@eager_and_jit
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_draws_are_those_of_jax(way, impl):
    """Of every generator, for one key and for several, also where the default is another."""
    key = jax.random.key(7, impl=impl)
    keys = way(seeds.fold_in)(key, jnp.arange(5))
    words = way(lambda k: seeds.seed(k).words)(keys)
    for i in range(5):
        expected = jax.random.fold_in(key, i)
        assert_same_bits(jax.random.key_data(keys[i]), jax.random.key_data(expected))
        assert_same_bits(words[i], jax.random.bits(expected, (2,), jnp.uint32))
    nested = seeds.fold_in(keys, jnp.arange(2))
    again = jax.random.fold_in(jax.random.fold_in(key, 4), 1)
    assert_same_bits(jax.random.key_data(nested[4, 1]), jax.random.key_data(again))


def test_raw_keys_and_another_way_of_drawing():
    raw = jax.random.PRNGKey(3)
    assert_same_bits(seeds.seed(raw).words, jax.random.bits(raw, (2,), jnp.uint32))
    with jax.threefry_partitionable(False):
        assert_same_bits(seeds.seed(raw).words, jax.random.bits(raw, (2,), jnp.uint32))


def test_roles_draw_by_their_index():
    key = jax.random.key(11)
    keys = role_keys(key)
    for i, role in enumerate(ROLES):
        of_role = jax.random.fold_in(key, i)
        assert_same_bits(keys.of(role).words, jax.random.bits(of_role, (2,), jnp.uint32))
        taps = keys.of_taps(role, 3).words
        of_tap = jax.random.fold_in(of_role, 2)
        assert_same_bits(taps[2], jax.random.bits(of_tap, (2,), jnp.uint32))


def test_seeds_apart_are_independent():
    seed = seeds.seed(jax.random.key(0))
    draw = jax.jit(lambda word: fp4.core.rounding.random_bits(seed.apart(word), (8192,), 24))
    bits = np.stack([draw(jnp.uint32(word)) for word in (0, 1, 2, 2**16, 2**31)]).astype(float)
    correlations = np.corrcoef(bits) - np.eye(5)
    assert np.abs(correlations).max() < 5 / np.sqrt(8192)


def sharded(axes, key_spec=None):
    """Rounds equal rows under shard_map, one row for each of four devices."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    row = jnp.asarray(sample("normal", (64,)))
    x = jnp.broadcast_to(row, (4, 64))
    f = jax.shard_map(
        lambda x, keys: fp4.fake_quantize(x, SPEC, key=keys.reshape(())),
        mesh=mesh,
        in_specs=(PartitionSpec(axes), key_spec or PartitionSpec()),
        out_specs=PartitionSpec(axes),
    )
    keys = jax.random.key(1)[None] if key_spec is None else jax.random.split(jax.random.key(1), 4)
    return np.asarray(jax.jit(f)(x if len(axes) == 2 else x[:2], keys)), row


def test_shards_with_one_key_draw_bits_of_their_own():
    rows, row = sharded(("a", "b"))
    assert len(np.unique(rows, axis=0)) == 4
    # The first shard draws what it draws without a mesh.
    assert_same_bits(rows[0], fp4.fake_quantize(row, SPEC, key=jax.random.key(1)))


def test_what_is_replicated_over_an_axis_is_rounded_alike_there():
    rows, _ = sharded(("a",))
    assert len(np.unique(rows, axis=0)) == 2


def test_shards_with_keys_of_their_own_draw_by_these():
    rows, row = sharded(("a", "b"), PartitionSpec(("a", "b")))
    keys = jax.random.split(jax.random.key(1), 4)
    for i in range(4):
        assert_same_bits(rows[i], fp4.fake_quantize(row, SPEC, key=keys[i]))
