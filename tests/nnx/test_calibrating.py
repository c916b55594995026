"""calibrate: what each method finds, what it changes, and what it refuses."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.nnx.observers import CANDIDATES

X = jax.random.normal(jax.random.key(0), (4, 6, 6, 3))
run = nnx.jit(lambda model, x: model(x))


class Net(nnx.Module):
    """A layer of each kind."""

    def __init__(self, seed: int = 0):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(16, 8, (2, 2), (2, 2), rngs=rngs)
        self.head = nnx.Linear(8, 20, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.up(nnx.relu(self.conv(x)))))


def net(recipe="forward_only") -> Net:
    return fp4nnx.apply_recipe(Net(), recipe)


def linear(recipe="full", features: int = 32) -> nnx.Linear:
    return fp4nnx.apply_recipe(nnx.Linear(features, 8, rngs=nnx.Rngs(0)), recipe)


def amax_of(layer) -> float:
    return float(fp4nnx.static_amaxes(layer)[""])


@pytest.fixture(scope="module")
def calibrated() -> Net:
    return fp4nnx.calibrate(net("forward_only+rht"), [X])


def test_static_is_dynamic_on_the_batch_that_sets_it(calibrated):
    np.testing.assert_array_equal(run(calibrated, X), run(net("forward_only+rht"), X))
    recipes = {op.recipe.name for _, op in nnx.iter_modules(calibrated) if hasattr(op, "recipe")}
    assert recipes == {"forward_only+rht+static"}


def test_pack_files_checkpoints_and_report_keep_it(calibrated, tmp_path):
    known = fp4nnx.static_amaxes(calibrated)
    assert list(known) == ["conv", "head", "up"]
    packed = fp4nnx.pack(calibrated)
    y = run(packed, X)
    np.testing.assert_allclose(y, run(calibrated, X), rtol=0, atol=2e-6 * np.abs(y).max())
    path = fp4nnx.save_packed(tmp_path / "net.safetensors", packed)
    loaded = fp4nnx.load_packed(path, Net(1))
    np.testing.assert_array_equal(run(loaded, X), y)
    assert fp4nnx.static_amaxes(loaded) == known
    shown = {layer.path: layer for layer in fp4nnx.report(calibrated).layers}
    assert {path: layer.amax for path, layer in shown.items()} == {
        path: float(amax) for path, amax in known.items()
    }
    assert f"static (amax {shown['head'].amax:.3g})" in str(fp4nnx.report(calibrated))
    # Orbax
    graph, state = nnx.split(calibrated)
    with ocp.StandardCheckpointer() as checkpointer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpointer.save(tmp_path / "checkpoint", nnx.to_pure_dict(state))
        checkpointer.wait_until_finished()
        pure = checkpointer.restore(tmp_path / "checkpoint", nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, pure))
    assert fp4nnx.static_amaxes(nnx.merge(graph, state)) == known
    restored = fp4nnx.set_static_amaxes(net("forward_only+rht"), known)
    np.testing.assert_array_equal(run(restored, X), run(calibrated, X))


def test_one_outlier_changes_no_other_example():
    """Of static scales, as of those of each example or row; that of the tensor it does."""
    w = fp4.TensorSpec()
    wild = X.at[2].mul(50.0).reshape(4, 36, 3)
    tame = X.reshape(4, 36, 3)

    def others(recipe, calibrate=False):
        layer = linear(recipe, 3)
        layer = fp4nnx.calibrate(layer, [tame]) if calibrate else layer
        return [np.asarray(run(layer, x))[[0, 1, 3]] for x in (tame, wild)]

    for amax, calibrate in (("example", False), ("row", False), ("tensor", True)):
        recipe = fp4.Recipe(name=amax, fprop=(fp4.TensorSpec(amax=amax), w))
        np.testing.assert_array_equal(*others(recipe, calibrate))
    one, other = others("forward_only")
    assert (one != other).any()


def test_inf_and_nan_are_not_hidden(calibrated):
    """A static amax clamps large numbers, not those: they reach the outputs of their example."""
    packed = fp4nnx.pack(calibrated)
    for model in (calibrated, packed):
        expected = np.asarray(run(model, X))
        for bad in (np.inf, -np.inf, np.nan):
            y = np.asarray(run(model, X.at[2, 3, 3, 1].set(bad)))
            assert np.isnan(y[2]).any()
            np.testing.assert_array_equal(y[[0, 1, 3]], expected[[0, 1, 3]])


@pytest.mark.parametrize("way", ["running", "forward_only+lsq", "forward_only+clip"])
def test_amaxes_that_follow_or_clip_hide_neither(way):
    layer = linear("full" if way == "running" else way, 3)
    layer = fp4nnx.running_amax(layer, 0.9) if way == "running" else layer
    x = X.reshape(-1, 3)
    run(layer, x)
    fp4nnx.update_amax(layer)
    layer.eval()
    for bad in (np.inf, np.nan):
        assert not np.isfinite(run(layer, x.at[5, 1].set(bad))[5]).all()


def test_methods_find_their_amax():
    layer, rng = linear(), np.random.default_rng(0)
    batches = [rng.normal(size=(64, 32)).astype(np.float32) for _ in range(3)]
    batches[1][5, 7] = -90.0
    values = np.abs(batches)
    assert amax_of(fp4nnx.calibrate(linear(), batches)) == 90
    assert amax_of(fp4nnx.calibrate(linear(), batches, headroom=1.5)) == 135
    for percent in (50.0, 99.0):
        fp4nnx.calibrate(layer, batches, "percentile", percentile=percent)
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert exact <= amax_of(layer) <= exact * (1 + 2**-7)
    assert amax_of(fp4nnx.calibrate(layer, batches, "percentile", percentile=100)) == 90
    found = amax_of(fp4nnx.calibrate(layer, iter(batches), "mse"))
    spec = fp4.TensorSpec(amax="static")

    def error(amax):
        return sum(
            float(jnp.square(fp4.fake_quantize(x, spec, amax=amax) - x).sum()) for x in batches
        )

    candidates = 90 * CANDIDATES
    errors = [error(amax) for amax in candidates]
    assert found == candidates[::-1][np.argmin(errors[::-1])]


def test_a_share_of_amax_stays_one():
    layer = fp4nnx.calibrate(linear("forward_only+clip"), [jnp.full((2, 32), 10.0)])
    assert amax_of(layer) == 9


class Stack(nnx.Module):
    """Three layers of one stack, run by a scan of rematerialized calls."""

    def __init__(self):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return nnx.Linear(16, 16, rngs=rngs)

        self.layers = make(nnx.Rngs(0))

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def body(layer, x):
            return 2 * layer(x)

        return body(self.layers, x)


def test_layers_of_a_stack_have_their_own():
    x = X.reshape(-1, 18)[:, :16]
    stack = fp4nnx.apply_recipe(Stack(), "full")
    dynamic = run(stack, x)
    fp4nnx.calibrate(stack, [x])
    (amax,) = fp4nnx.static_amaxes(stack).values()
    assert amax.shape == (3,)
    assert len(set(amax.tolist())) == 3
    np.testing.assert_array_equal(run(stack, x), dynamic)
    packed = fp4nnx.pack(stack)
    (kept,) = fp4nnx.static_amaxes(packed).values()
    np.testing.assert_array_equal(kept, amax)


class Unused(nnx.Module):
    def __init__(self):
        self.used, self.idle = (nnx.Linear(4, 4, rngs=nnx.Rngs(i)) for i in range(2))

    def __call__(self, x):
        return self.used(x)


def test_what_cannot_be_calibrated_is_refused():
    ones, nan = jnp.ones((2, 32)), jnp.full((2, 32), jnp.nan)
    layer = linear()

    def refused(message, model, batches, *args, **options):
        with pytest.raises(ValueError, match=message):
            fp4nnx.calibrate(model, batches, *args, **options)

    refused("there are no batches; give at least one", layer, [])
    refused("batch 1 has NaN or Inf among its values", layer, [ones, nan])
    refused("batch 0 holds 'no'; give arrays, and what else .* call=", layer, [(ones, "no")])
    refused(r"batch 1 has shape \(0, 32\), which holds no numbers", layer, [ones, ones[:0]])
    refused("headroom is 1e[+]39, with which an amax of 1 leaves", layer, [ones], headroom=1e39)
    refused("headroom is True; give a positive factor", layer, [ones], headroom=True)
    refused("scales of blocks alone have no amax", linear("mxfp4_full"), [ones])
    refused(r"headroom is 0; give a positive factor", layer, [ones], headroom=0)
    refused(r"method is 'best'; allowed: 'max', 'percentile', 'mse'\.", layer, [ones], "best")
    refused("percentile is 101; give a share", layer, [ones], percentile=101)
    refused("is packed; calibrate the model that was trained", fp4nnx.pack(layer), [ones])
    refused("no layer of Linear quantizes x .*; apply a recipe", linear("baseline"), [ones])
    idle = fp4nnx.apply_recipe(Unused(), "full")
    refused("no batch reached idle: the model never calls it", idle, [jnp.ones((2, 4))])
    huge = linear()
    huge.kernel.set_value(jnp.full((32, 8), 3e38))
    deep = nnx.Sequential(huge, linear("full", 8))
    refused(r"x of layers\.1 has NaN or Inf, though the batches have none", deep, [ones])
    # It is as it was.
    assert layer.dot_general.recipe.name == "full"
    assert fp4nnx.static_amaxes(layer) == {}
    with pytest.raises(ValueError, match="amaxes are given for other, which quantize no x"):
        fp4nnx.set_static_amaxes(layer, {"other": 1.0})
    with pytest.raises(ValueError, match=r"has shape \(2,\), its stack of layers has \(\)"):
        fp4nnx.set_static_amaxes(layer, {"": [1.0, 2.0]})
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"the amax of \(model\) is .*; give non-negative"):
            fp4nnx.set_static_amaxes(layer, {"": wrong})


def test_a_static_recipe_wants_a_calibration():
    x, w = fp4.get_recipe("full").fprop
    recipe = fp4.Recipe(name="static", fprop=(dataclasses.replace(x, amax="static"), w))
    layer, ones = linear(recipe), jnp.ones((2, 32))
    for act in (lambda: layer(ones), lambda: fp4nnx.pack(layer)):
        with pytest.raises(ValueError, match="no amax: calibrate the model on some batches first"):
            act()
    fp4nnx.calibrate(layer, [ones])
    assert layer(ones).shape == (2, 8)
    assert layer.dot_general.recipe == recipe


def test_x_of_zeros_gets_some_amax(caplog):
    layer = fp4nnx.calibrate(linear(), [jnp.zeros((2, 32))])
    assert amax_of(layer) == 1
    assert "x of (model) was 0 in all batches" in caplog.text
