"""fp4.attention without keys, queries, examples; and with its heads on several devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import fp4jax as fp4
from tests.checks import relative_error
from tests.ops.test_attention import RECIPES, data, run
from tests.samples import assert_same_bits

KEY = jax.random.key(5)
slow = pytest.mark.slow
EMPTY = {"keys": (2, 3, 0), "queries": (2, 0, 3), "examples": (0, 3, 4), "all": (0, 0, 0)}
WAYS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: lambda *a: tuple(r[0] for r in jax.jit(jax.vmap(f))(*(x[None] for x in a))),
}


def empty(b, m, t):
    """q, k, v, bias, do: two heads of q share one of k."""
    shapes = ((b, m, 2, 16), (b, t, 1, 16), (b, t, 1, 8), (b, 2, m, t), (b, m, 2, 8))
    return [jnp.asarray(np.random.default_rng(0).standard_normal(s), jnp.float32) for s in shapes]


@pytest.mark.parametrize(
    ("name", "way", "shape"),
    [
        pytest.param(*case, marks=[slow] * (case != ("attention_qat", "jit", "keys")))
        for case in itertools.product(RECIPES, WAYS, EMPTY)
    ],
)
def test_empty_in_zeros_out(name, way, shape):
    """A query without any key is zero, as in jax.nn; and so are all gradients."""
    call = functools.partial(run, key=KEY, recipe=RECIPES[name])
    arguments = empty(*EMPTY[shape])
    results = WAYS[way](call)(*arguments)
    for result, like in zip(results, (arguments[4], *arguments[:4]), strict=True):
        assert (result.shape, result.dtype) == (like.shape, like.dtype)
        assert not result.any()


def test_channels_are_needed():
    with pytest.raises(ValueError, match="q and k must have channels"):
        fp4.attention(*(jnp.ones((2, 3, 2, 0)),) * 3, recipe="attention_qat")


#: Heads on two devices; the bias is that of all heads.
HEADS = P(None, None, "heads")
SHARDED = (HEADS, HEADS, HEADS, P(None, "heads"), HEADS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[slow] * (n != "attention_naive"))
        for n in ("attention_naive", "attention_qat", "attention_full", "tiles", "qk_only")
    ],
)
def test_heads_on_two_devices(name):
    """With amax of all shards: the whole, in every bit."""
    arguments, recipe = data(), RECIPES[name]
    mesh = jax.make_mesh((2,), ("heads",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        functools.partial(run, key=None, recipe=recipe, axis_name="heads"),
        mesh=mesh,
        in_specs=SHARDED,
        out_specs=SHARDED[:1] + SHARDED[:4],
    )
    whole = jax.jit(functools.partial(run, key=None, recipe=recipe))(*arguments)
    for found, expected in zip(jax.jit(mapped)(*arguments), whole, strict=True):
        assert_same_bits(found, expected)


@slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["attention_qat", "attention_sr"])
def test_sharded_heads_are_unsharded(name, axis_type):
    """Under jit the compiler shards: amax and random bits are those of the whole array."""
    arguments, recipe = data(), RECIPES[name]
    expected = jax.jit(functools.partial(run, recipe=recipe))(*arguments)
    mesh = jax.make_mesh((2,), ("heads",), axis_types=(axis_type,))
    placed = jax.device_put(arguments, [NamedSharding(mesh, spec) for spec in SHARDED])
    with jax.set_mesh(mesh):
        results = jax.jit(functools.partial(run, recipe=recipe))(*placed)
    for found, whole in zip(results, expected, strict=True):
        assert relative_error(found, whole) < 3e-6


@slow
def test_shards_of_heads_round_with_bits_of_their_own():
    """Stochastic: shards that hold one key and equal heads differ."""
    arguments = [jnp.concatenate([a[:, :, :1]] * 2, 2) for a in data()[:3]]
    mesh = jax.make_mesh((2,), ("heads",), axis_types=(AxisType.Auto,))
    spec = fp4.TensorSpec(rounding="stochastic")
    forward = fp4.Recipe(name="drawn", fprop=(spec, spec))
    recipe = fp4.AttentionRecipe(name="drawn", qk=forward, pv=forward)
    attend = functools.partial(fp4.attention, recipe=recipe, axis_name="heads")
    mapped = jax.shard_map(
        lambda q, k, v, key: attend(q, k, v, key=key),
        mesh=mesh,
        in_specs=(HEADS, HEADS, HEADS, P()),
        out_specs=HEADS,
    )
    o = jax.jit(mapped)(*arguments, KEY)
    assert (o[:, :, 0] != o[:, :, 1]).any()
