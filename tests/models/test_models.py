"""Models as a whole: initial weights, modes, dtypes, training under vmap and jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.models.dropout import Dropout
from tests.samples import normal

SMALL_TRANSFORMER = {"dim": 16, "heads": 2, "hidden": 32, "image_size": 32}
SMALL = {
    "cnn": {"stages": 2, "channels": 16, "image_size": 32},
    "vit": {**SMALL_TRANSFORMER, "depth": 1},
    "swin": {**SMALL_TRANSFORMER, "depth": 2, "window": 2},
}


@pytest.mark.parametrize(
    "name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "swin"))]
)
def test_bfloat16(name):
    x = normal(0, 2, 32, 32, 3)
    logits = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = models.create(name, "500k", rngs=nnx.Rngs(0), dtype=dtype, **SMALL[name])
        model.eval()
        logits.append(nnx.jit(lambda model, x: model(x))(model, x))
        parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert {p.dtype for p in parameters} == {jnp.dtype("float32")}
    assert logits[1].dtype == jnp.float32
    assert 0 < jnp.abs(logits[0] - logits[1]).max() < 0.1 * jnp.abs(logits[0]).max()
    model.train()
    nnx.eval_shape(lambda m: m(x, rngs=nnx.Rngs(dropout=0)), model)


def small_cnn(**options):
    return models.create("cnn", "500k", rngs=nnx.Rngs(0), **SMALL["cnn"], **options)


def test_initial_weights():
    model = models.create("cnn", "500k", rngs=nnx.Rngs(0))
    ref = models.create("cnn", "500k", init="ref", rngs=nnx.Rngs(0))
    x = normal(0, 4, 64, 64, 3)
    call = nnx.jit(lambda model: model(x, rngs=nnx.Rngs(0)))
    assert float(jnp.std(call(ref))) == pytest.approx(10.6, rel=0.15)
    logits = call(model)
    assert 0.5 < float(jnp.std(logits)) < 4
    assert float(logits.mean()) == pytest.approx(np.log(0.01 / 0.99), abs=1)
    for i, fan_in in enumerate((64 * 4, 128 * 4, 128 * 4, 128 * 4)):
        std = float(jnp.std(model.decoders[i].kernel[...]))
        assert std == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
    assert float(jnp.std(ref.decoders[3].kernel[...])) == pytest.approx(0.354, rel=0.05)

    options = {"depth": 1, "image_size": 64, "rngs": nnx.Rngs(0)}
    vit, swin = models.create("vit", "500k", **options), models.create("swin", "500k", **options)
    matched = models.create("vit", "500k", matched_init=True, **options)
    bound = float(jnp.abs(vit.blocks[0].mlp.fc1.kernel[...]).max())
    assert bound == pytest.approx(1 / 8, rel=0.01)
    assert float(jnp.abs(vit.blocks[0].mlp.fc1.bias[...]).max()) > 0.1
    for model in (swin, matched):
        fc1 = model.blocks[0].mlp.fc1
        assert float(jnp.std(fc1.kernel[...])) == pytest.approx(0.02, rel=0.05)
        assert not fc1.bias[...].any()
    # torch: fan-in of a transposed convolution is outputs x taps.
    up = vit.decoder.decoder_blocks[0][0]
    assert float(jnp.abs(up.kernel[...]).max()) == pytest.approx(1 / np.sqrt(32 * 4), rel=0.01)


def test_skips_are_dropped_twice_or_once():
    seen = []
    for once in (False, True):
        model = small_cnn(skip_dropout_once=once)
        last, kind = model.decoders[-1], type(model.decoders[-1])

        def spy(self, x, kind=kind):
            seen.append(float((x[..., 16:] == 0).mean()))
            return kind.__call__(self, x)

        last.__class__ = type("Spy", (kind,), {"__call__": spy})
        model(normal(0, 8, 64, 64, 3), rngs=nnx.Rngs(0))
    # Encoder 0 has a LeakyReLU, whose output is not zero.
    np.testing.assert_allclose(seen, [0.75, 0.5], atol=0.01)


def test_modes_switch_as_in_flax():
    model = small_cnn()
    x = normal(0, 2, 16, 16, 3)
    model.eval()
    np.testing.assert_array_equal(model(x), model(x))
    view = nnx.view(model, deterministic=False, use_running_average=False)
    assert (view(x, rngs=nnx.Rngs(0)) != model(x)).any()
    model.train()
    assert not model.drop.deterministic
    assert not model.encoder_norms[0].use_running_average
    model.set_attributes(Dropout, deterministic=True)
    assert model.drop.deterministic


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("cnn", "2d+rht+sr"),
        pytest.param("swin", "baseline", marks=pytest.mark.slow),
        pytest.param("vit", "2d+rht+sr", marks=pytest.mark.slow),
        pytest.param("swin", "2d+rht+sr", marks=pytest.mark.slow),
    ],
)
def test_trains_under_vmap_and_jit(name, recipe):
    size = 32

    def create(key):
        model = models.create(name, "500k", rngs=nnx.Rngs(params=key), **SMALL[name])
        return fp4nnx.apply_recipe(model, recipe, keep=model.high_precision, verbose=False)

    x = normal(0, 2, size, size, 3)
    graph = nnx.split(create(jax.random.key(0)))[0]
    keys = jax.random.split(jax.random.key(1), 2)
    states = jax.vmap(lambda key: nnx.split(create(key))[1])(keys)

    @jax.jit
    @jax.vmap
    def gradient(state, key):
        params, rest = nnx.split_state(state, nnx.Param, ...)

        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return (model(x, rngs=nnx.Rngs(dropout=key)) ** 2).mean()

        return jax.grad(loss)(params)

    for leaf in jax.tree.leaves(gradient(states, keys)):
        assert jnp.isfinite(leaf).all()
        assert leaf.shape[0] == 2


@pytest.mark.parametrize("name", ["cnn", "vit", "swin"])
def test_prior_is_the_mean_probability_at_the_start(name):
    model = models.create(name, "500k", image_size=32, prior=0.02, rngs=nnx.Rngs(0))
    model.eval()
    bias = model.decoders[-1].bias if name == "cnn" else model.decoder.classifier.bias
    np.testing.assert_allclose(jax.nn.sigmoid(bias[...]), 0.02, rtol=1e-5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        models.create(name, "500k", image_size=32, prior=1.5, rngs=nnx.Rngs(0))
