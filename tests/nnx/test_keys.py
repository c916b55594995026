"""Rounding keys of NNX models, and models under the transformations of JAX and Flax."""

import dataclasses
import functools
import operator
import zlib

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.nnx import refresh_keys, report
from tests.checks import diagonal, relative_error
from tests.nnx.test_apply_recipe import PATHS, TOLERANCE, X, apply, assert_same, forward, net
from tests.samples import assert_same_bits, sample


def keys(model) -> dict[str, tuple[int, ...]]:
    """The rounding keys' data by layer."""
    return {
        ".".join(map(str, path[:-1])): tuple(jax.random.key_data(module.key.get_value()).tolist())
        for path, module in nnx.iter_modules(model)
        if isinstance(module, fp4nnx.Op) and module.key is not None
    }


def test_keys_are_a_function_of_seed_step_and_layer():
    first = keys(refresh_keys(net("2d+rht+sr"), 7, 3))
    assert list(first) == PATHS
    for path in ("up", "blocks.1"):
        expected = jax.random.fold_in(
            jax.random.fold_in(jax.random.key(7), 3), zlib.crc32(path.encode())
        )
        assert first[path] == tuple(jax.random.key_data(expected).tolist())
    # whatever was there before, whatever the parameters and the recipe
    model = net("sr", seed=1)
    for seed, step in ((1, 1), (7, 3)):
        refreshed = keys(refresh_keys(model, seed, step))
    assert refreshed == first
    others = [keys(refresh_keys(net("sr"), *arguments)) for arguments in ((7, 4), (8, 3), (3, 7))]
    assert len({key for each in (first, *others) for key in each.values()}) == 4 * len(PATHS)


def test_keys_before_the_first_refresh():
    """Different for each layer already, and only where they are needed."""
    assert len(set(keys(net("sr")).values())) == len(PATHS)
    assert list(keys(net("sr", keep="b"))) == [p for p in PATHS if not p.startswith("b")]
    assert keys(net("full")) == {}


def test_seeds_and_keys():
    by_int = keys(refresh_keys(net("sr"), 7, 3))
    for seed in (jax.random.key(7), jax.random.PRNGKey(7), jnp.int32(7), jnp.uint32(7)):
        model = refresh_keys(net("sr"), seed, jnp.int32(3))
        assert keys(model) == by_int
        assert model.head.dot_general.key.get_value().shape == ()
    assert keys(refresh_keys(net("sr"), 2**31, 3)) != by_int


STACKED = {
    "linear": (functools.partial(nnx.Linear, 20, 20), (3, 20)),
    "linear_general": (
        functools.partial(nnx.LinearGeneral, 20, 20, batch_axis={0: 2}),
        (2, 3, 20),
    ),
    "conv": (functools.partial(nnx.Conv, 20, 20, 3), (2, 5, 20)),
    "conv_transpose": (functools.partial(fp4nnx.ConvTranspose, 20, 20, 3), (2, 5, 20)),
    "attention": (functools.partial(nnx.MultiHeadAttention, 2, 20, decode=False), (2, 5, 20)),
}


@pytest.mark.parametrize(("name", "place"), diagonal(list(STACKED), ["after vmap", "inside vmap"]))
def test_stacks_of_layers(name, place):
    """Made by nnx.vmap and run by nnx.scan: the layers one by one, each with its own key."""
    (make, shape), inside = STACKED[name], place == "inside vmap"
    spec = fp4.TensorSpec(rounding="stochastic_unbiased")
    recipe = fp4.Recipe(name="forward", fprop=(spec, spec))

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def build(rngs):
        return apply(make(rngs=rngs), recipe) if inside else make(rngs=rngs)

    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x, layer):
        return layer(x)

    model, x = build(nnx.Rngs(0)), jnp.asarray(sample("normal", shape))
    if not inside:
        apply(model, recipe)
        first = [key for stack in keys(model).values() for key in stack]
        assert len(set(map(tuple, first))) == 3 * len(keys(model))
    unrefreshed = run(x, model)
    for step in (1, 2):
        refresh_keys(model, 0, step)
        drawn = [tuple(key) for stack in keys(model).values() for key in stack]
        assert len(set(drawn)) == len(drawn) == 3 * len(keys(model))
    graphdef, state = nnx.split(model)
    expected = x
    for i in range(3):
        layer = nnx.merge(graphdef, jax.tree.map(operator.itemgetter(i), state))
        expected = nnx.jit(lambda layer, x: layer(x))(layer, expected)
    y = run(x, model)
    assert relative_error(y, expected) < TOLERANCE
    assert relative_error(y, unrefreshed) > 0.001


def test_models_without_random_bits_are_left_alone():
    model = net("full")
    before = nnx.state(model)
    assert refresh_keys(model, 0, 0) is model
    jax.tree.map(assert_same_bits, nnx.state(model), before)
    assert refresh_keys(net(), 0, 0)


def small(recipe="2d+rht+sr") -> nnx.Module:
    """Two layers that differ in everything but their class."""
    rngs = nnx.Rngs(0)
    layers = nnx.Linear(20, 18, rngs=rngs), nnx.relu, nnx.Linear(18, 5, rngs=rngs)
    return apply(nnx.Sequential(*layers), recipe)


ROWS = sample("normal", (24, 20))


def gradients(graphdef, state, seed, step):
    """Gradients of a model whose keys were refreshed, for use under transformations."""
    model = nnx.merge(graphdef, state, copy=True)
    refresh_keys(model, seed, step)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    loss = lambda params: jnp.square(nnx.merge(graphdef, params, rest)(ROWS)).sum()  # noqa: E731
    return jax.grad(loss)(params)


def test_refreshing_under_transformations():
    """Traced, vmapped and scanned seeds and steps give the gradients of Python numbers."""
    graphdef, state = nnx.split(small())
    of = jax.jit(functools.partial(gradients, graphdef, state))
    one_by_one = [of(seed, 3) for seed in (0, 1)]
    kernels = [each["layers"][0]["kernel"] for each in one_by_one]
    assert relative_error(*kernels) > 0.001
    assert_same(of(jax.random.key(1), jnp.int32(3)), one_by_one[1])
    batched = jax.jit(jax.vmap(of, in_axes=(0, None)))(jnp.arange(2), 3)
    for lane, expected in enumerate(one_by_one):
        assert_same(jax.tree.map(lambda g: g[lane], batched), expected)  # noqa: B023
    _, scanned = jax.jit(lambda: lax.scan(lambda c, step: (c, of(1, step)), 0, jnp.arange(2, 4)))()
    assert_same(jax.tree.map(lambda g: g[1], scanned), one_by_one[1])


def test_train_step_is_traced_once():
    """In several steps, with new keys each; and it learns."""
    model, traces = small(), 0
    optimizer = nnx.Optimizer(model, optax.sgd(0.02), wrt=nnx.Param)
    target = jnp.asarray(ROWS[:, :5] > 0, jnp.float32)

    @nnx.jit
    def step(model, optimizer, i):
        nonlocal traces
        traces += 1
        refresh_keys(model, 0, i)
        loss, grads = nnx.value_and_grad(lambda m: jnp.square(m(ROWS) - target).mean())(model)
        optimizer.update(model, grads)
        return loss

    losses, seen = [], set()
    for i in range(20):
        losses.append(float(step(model, optimizer, i)))
        seen.add(keys(model)["layers.0"])
    assert traces == 1
    assert len(seen) == 20
    assert losses[-1] < 0.8 * losses[0]
    assert isinstance(model.layers[0].dot_general, fp4nnx.DotGeneral)


def test_models_made_before_the_explicit_mesh():
    """A loss sharded over eight devices, of a model that was on none of them in particular."""
    model = refresh_keys(small(), 0, 1)
    gradient = nnx.jit(nnx.grad(lambda model, x: jnp.square(model(x)).mean()))
    expected = gradient(model, ROWS)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        grads = gradient(model, jax.device_put(ROWS, NamedSharding(mesh, PartitionSpec("data"))))
    assert_same(grads, expected)


def test_equal_models_share_a_trace():
    traces = 0

    @nnx.jit
    def counted(model):
        nonlocal traces
        traces += 1
        return model(X)

    recipe = fp4.get_recipe("2d+rht+sr")
    for seed, equal in enumerate((recipe, "2d+rht+sr", 5, dataclasses.replace(recipe))):
        counted(refresh_keys(net(equal, seed=seed), seed, 0))
    assert traces == 1
    counted(net("2d+rht"))
    assert traces == 2


@pytest.mark.parametrize("graph", [True, False])
def test_graph_mode_and_tree_mode(graph):
    """Splitting by nnx.Param and merging inside the loss works in both, with the same result."""
    with nnx.set_graph_mode(graph):
        model = small()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        @jax.jit
        def step(params, rest, i):
            def loss(params):
                model = nnx.merge(graphdef, params, rest, copy=True)
                refresh_keys(model, 0, i)
                return jnp.square(model(ROWS)).mean()

            return jax.grad(loss)(params)

        grads = step(params, rest, 1)
        assert jax.tree.structure(grads) == jax.tree.structure(params)
        everything = keys(refresh_keys(net("sr"), 0, 1))
    assert everything == keys(refresh_keys(net("sr"), 0, 1))
    model = refresh_keys(small(), 0, 1)
    expected = nnx.jit(nnx.grad(lambda model: jnp.square(model(ROWS)).mean()))(model)
    assert_same(grads, expected)


def test_states_are_pytrees():
    model = refresh_keys(net("2d+rht+sr"), 7, 3)
    graphdef, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)
    rebuilt = nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))
    assert keys(rebuilt) == keys(model)
    assert str(report(rebuilt)) == str(report(model))
    assert_same_bits(forward(rebuilt), forward(model))


def test_checkpoints(tmp_path):
    """Orbax stores the whole state, rounding keys included."""
    model = refresh_keys(net("2d+rht+sr"), 7, 3)
    other = net("2d+rht+sr", seed=1)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.state(other))
        nnx.update(other, checkpointer.restore(tmp_path / "state", abstract))
    assert keys(other) == keys(model) != keys(net("2d+rht+sr"))
    assert_same_bits(forward(other), forward(model))


@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_model_step_or_pattern_is_refused():
    layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="step is 'a'; give an integer"):
        fp4nnx.refresh_keys(fp4nnx.apply_recipe(layer, "sr"), seed=0, step="a")
    with pytest.raises(ValueError, match="model is a dict; fp4jax"):
        fp4nnx.refresh_keys({}, seed=0, step=0)
    with pytest.raises(ValueError, match="keep is 3; give regular expressions of paths"):
        fp4nnx.apply_recipe(layer, "full", keep=3)
    with pytest.raises(ValueError, match="model is a dict; pack takes"):
        fp4nnx.pack({})
