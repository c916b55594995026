"""Keys of calls: layers that run several times within a step draw new bits each time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.ops.role_keys import SAMPLES, CallKeys, fingerprint, role_keys
from tests.checks import relative_error
from tests.samples import assert_same_bits, sample

KEY = jax.random.key(1)
SPEC = fp4.TensorSpec(rounding="stochastic_unbiased")
#: Rounds x alone, so that what a layer returns shows the bits.
ROUNDS_X = fp4.Recipe(name="rounds x", fprop=(SPEC, None))


def bits(x) -> int:
    return int(fingerprint(jnp.asarray(x)))


def identity(recipe=ROUNDS_X, n: int = 32) -> nnx.Linear:
    """A layer that returns its rounded input."""
    layer = nnx.Linear(n, n, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel.set_value(jnp.eye(n))
    return fp4nnx.apply_recipe(layer, recipe)


def noise(y, x):
    """Rounding errors relative to x, which do not depend on its power of two."""
    return np.asarray((y - x) / jnp.abs(x).max())


X = jnp.asarray(sample("normal", (256, 32)))


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 33, 31, 20), (100_000,), (3, 1, 5000)])
def test_fingerprints_tell_inputs_apart(shape):
    x = jnp.asarray(sample("normal", shape))
    others = [x + 1, 2 * x, 0.9 * x, -x, jnp.zeros_like(x), jnp.ones_like(x)]
    others += [jnp.flip(x, -1), jnp.roll(x, 1)] if x.size > 1 else []
    values = [bits(x), *map(bits, others)]
    assert len(set(values)) == len(values)
    assert bits(x) == values[0]


def test_last_bits_do_not_matter():
    x = np.asarray(sample("normal", (64, 512)))
    nearby = x * (1 + np.random.default_rng(0).uniform(-1, 1, (50, *x.shape)) * 2.0**-22)
    assert len({bits(each.astype(np.float32)) for each in (x, *nearby)}) == 1


def test_bits_of_any_input():
    """Empty, constant, tiny, not finite; bfloat16; few of many values are seen."""
    assert CallKeys(*role_keys(KEY)).of_data(jnp.zeros((0, 4))).call is None
    for value in (0.0, 1e-38, 1e38, jnp.inf, jnp.nan):
        assert bits(jnp.full((4, 4), value)) == bits(jnp.full((4, 4), value))
    assert bits(X.astype(jnp.bfloat16)) != bits(-X.astype(jnp.bfloat16))
    one_hot = jax.nn.one_hot(jnp.arange(4), SAMPLES // 4)
    assert bits(one_hot) != bits(jnp.roll(one_hot, 1, 1))


def test_a_layer_called_twice_on_different_inputs():
    """Errors of x and of 2 (1 + e) x are those of one draw if the bits are; else independent."""

    @nnx.jit
    def twice(layer):
        return layer(X), layer(-X)

    layer = identity()
    first, second = twice(layer)
    correlation = np.corrcoef(noise(first, X).ravel(), noise(-second, X).ravel())[0, 1]
    assert abs(correlation) < 0.1
    again = twice(layer)
    assert_same_bits(first, again[0])
    assert_same_bits(second, again[1])
    assert_same_bits(layer(X), first)
    fp4nnx.refresh_keys(layer, 0, 1)
    assert relative_error(layer(X), first) > 0.01


def inputs_of_steps() -> jax.Array:
    """The same values in every step, scaled by what changes no code: only bits tell them apart."""
    return jnp.stack([X * 2.0**i for i in range(4)])


def assert_independent(ys, xs):
    errors = np.stack([noise(y, x).ravel() for y, x in zip(ys, xs, strict=True)])
    correlations = np.corrcoef(errors) - np.eye(len(errors))
    assert np.abs(correlations).max() < 0.1


def test_a_scan_over_a_cell():
    layer, xs = identity(), inputs_of_steps()
    _, ys = jax.jit(lambda xs: lax.scan(lambda c, x: (c, layer(x)), 0, xs))(xs)
    assert_independent(ys, xs)
    for y, x in zip(ys, xs, strict=True):
        assert relative_error(y, layer(x)) < 1e-6


class Cell(nnx.RNNCellBase):
    """Returns its rounded input, and keeps nothing."""

    def __init__(self):
        self.layer = identity()

    def __call__(self, carry, inputs):
        return carry, self.layer(inputs)

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros(())

    @property
    def num_feature_axes(self):
        return 1


def test_recurrent_networks():
    xs = inputs_of_steps()
    rnn = nnx.RNN(Cell(), time_major=True, rngs=nnx.Rngs(0))
    assert_independent(rnn(xs), xs)
    assert_same_bits(rnn(xs), rnn(xs))


def loss(layer, x):
    hidden = layer(jnp.tanh(layer(x)))
    return jnp.square(hidden).mean()


def test_checkpointing_draws_the_same_bits_again():
    both = fp4.Recipe(
        name="all", fprop=(SPEC, SPEC), dgrad=(SPEC, SPEC), wgrad=(SPEC, SPEC),
        residuals="original",
    )  # fmt: skip
    graph, params, rest = nnx.split(identity(both), nnx.Param, ...)

    def of(params, x):
        return loss(nnx.merge(graph, params, rest), x)

    plain, again = (jax.jit(jax.value_and_grad(f))(params, X) for f in (of, jax.checkpoint(of)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), plain, again)


def test_examples_of_a_batch_differ():
    """Under vmap, each with its own bits; and split and merged models have the same."""
    layer, xs = identity(), inputs_of_steps()
    ys = jax.vmap(layer)(xs)
    assert_independent(ys, xs)
    assert_same_bits(nnx.merge(*nnx.split(layer))(X), layer(X))


def test_shards_with_one_key_differ():
    xs, layer = inputs_of_steps(), identity()
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("d")
    run = jax.shard_map(lambda x: layer(x[0])[None], mesh=mesh, in_specs=spec, out_specs=spec)
    ys = jax.jit(run)(xs)
    assert_independent(ys, xs)


def test_explicit_meshes():
    layer = identity()
    expected = layer(X)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        y = jax.jit(layer)(jax.device_put(X, jax.NamedSharding(mesh, PartitionSpec("d"))))
    assert relative_error(y, expected) < 1e-6


def test_equal_models_share_a_trace():
    traces = []

    @nnx.jit
    def run(layer, x):
        traces.append(None)
        return layer(layer(x))

    for seed in range(2):
        run(fp4nnx.refresh_keys(identity(), seed, 0), X)
    assert len(traces) == 1


def test_gradients_pass_by():
    """The fingerprint is no function that x is differentiated through."""
    layer = identity()
    g = jax.grad(functools.partial(lambda x: layer(x).sum()))(X)
    np.testing.assert_allclose(g, jnp.ones_like(X), rtol=1e-6)
