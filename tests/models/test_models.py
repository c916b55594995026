"""fp4jax.models: sizes, registry, options, dropout, batch norm, multiply-adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.models.dropout import Dropout, DropPath, Seeds
from fp4jax.models.layers import Downsample, Upsample, channels_to_space, space_to_channels
from fp4jax.models.norms import GELU, IDENTITY, RELU, BatchNorm, leaky_relu, norm_act
from fp4jax.models.swin import relative_position_index, shift_mask
from tests.checks import diagonal
from tests.samples import normal

# (name, scale): parameters, GMAC at 256 x 256 and those of attention's two products, layers that
# can be quantized and that are, share of parameters quantized in percent. Protocol 1.1.
TABLE = {
    ("cnn", "500k"): (530_753, 1.124, 0, 8, 5, 86.4),
    ("cnn", "4m"): (3_684_481, 4.454, 0, 12, 9, 92.5),
    ("cnn", "15m"): (13_674_529, 13.441, 0, 14, 11, 93.9),
    ("vit", "500k"): (494_473, 0.213, 0.0845, 46, 40, 82.8),
    ("vit", "4m"): (3_634_921, 1.195, 0.228, 42, 36, 91.3),
    ("vit", "15m"): (13_880_777, 4.276, 0.473, 38, 32, 92.5),
    ("swin", "500k"): (496_305, 0.134, 0.0052, 46, 40, 82.5),
    ("swin", "4m"): (3_646_687, 1.020, 0.0566, 42, 36, 91.0),
    ("swin", "15m"): (13_987_513, 4.259, 0.470, 38, 32, 91.8),
}
NAMES = ("cnn", "vit", "swin")
MACS_QUANTIZED = {
    ("cnn", "500k"): 91.0,
    ("cnn", "4m"): 96.1,
    ("cnn", "15m"): 97.8,
    ("vit", "500k"): 49.3,
    ("vit", "4m"): 71.4,
    ("vit", "15m"): 77.2,
    ("swin", "500k"): 78.4,
    ("swin", "4m"): 83.3,
    ("swin", "15m"): 77.2,
}


def abstract(name, scale, **options):
    """A model whose parameters are shapes only."""
    return nnx.eval_shape(lambda: models.create(name, scale, rngs=nnx.Rngs(0), **options))


def output(model, size, batch=1, seed=0):
    """Shape and dtype of what a model returns."""
    graph, state = nnx.split(model)

    def call(state, x):
        rngs = None if seed is None else nnx.Rngs(dropout=seed)
        return nnx.merge(graph, state, copy=True)(x, rngs=rngs)

    return jax.eval_shape(call, state, jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32))


@pytest.mark.parametrize(
    ("name", "scale"),
    [pytest.param(*key, marks=[pytest.mark.slow] * (key[1] != "500k")) for key in TABLE],
)
def test_sizes_and_quantized_layers_are_those_of_the_paper(name, scale):
    parameters, gmac, attention, layers, quantized, share = TABLE[name, scale]
    model = abstract(name, scale)
    counts = models.macs(model, 256)
    products = sum(n for path, n in counts.items() if path.endswith((".qk", ".pv")))
    assert sum(counts.values()) / 1e9 == pytest.approx(gmac, abs=6e-4)
    assert products / 1e9 == pytest.approx(attention, abs=6e-4)

    fp4nnx.apply_recipe(model, "forward_only", keep=model.high_precision, verbose=False)
    report = fp4nnx.report(model)
    assert report.parameters == parameters
    assert (len(report.layers), len(report.quantized)) == (layers, quantized)
    weights = sum(layer.parameters for layer in report.quantized)
    assert 100 * weights / parameters == pytest.approx(share, abs=0.06)
    covered = sum(counts[layer.path] for layer in report.quantized)
    assert 100 * covered / sum(counts.values()) == pytest.approx(
        MACS_QUANTIZED[name, scale], abs=0.06
    )
    # The count does not depend on the recipe.
    assert models.macs(model, 256) == counts


@pytest.mark.parametrize(
    ("name", "scale_and_size"), diagonal(NAMES, [("500k", 64), ("500k", 128), ("4m", 128)])
)
def test_smaller_images(name, scale_and_size):
    scale, size = scale_and_size
    model = abstract(name, scale, image_size=size, num_classes=2)
    out = output(model, size, batch=2)
    assert out.shape == (2, size, size, 2)
    assert out.dtype == jnp.float32


def test_a_cnn_takes_other_sizes_than_it_was_created_for():
    assert output(abstract("cnn", "500k"), 64, batch=2).shape == (2, 64, 64, 1)


def test_a_window_is_cut_to_the_grid():
    model = abstract("swin", "15m", image_size=128)
    assert model.blocks[1].attn.window == model.grid == 8
    assert model.blocks[1].attn.shift == 4
    model = abstract("swin", "15m", shift_when_global=False)
    assert [block.attn.shift for block in model.blocks] == [0] * 8


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


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="known names: cnn, vit, swin"):
        models.create("resnet", rngs=rngs)
    with pytest.raises(ValueError, match="its scales are: 500k, 4m, 15m"):
        models.create("vit", "3m", rngs=rngs)
    with pytest.raises(ValueError, match=r"no option width.*channels"):
        models.create("cnn", width=2, rngs=rngs)
    with pytest.raises(ValueError, match="multiples of 16"):
        models.create("cnn", "500k", image_size=100, rngs=rngs)
    with pytest.raises(ValueError, match="multiple of the patch"):
        models.create("vit", "500k", image_size=100, rngs=rngs)
    with pytest.raises(ValueError, match=r"window=3 or 5 or 15"):
        models.create("swin", "500k", image_size=240, rngs=rngs)
    with pytest.raises(ValueError, match="heads is 5"):
        models.create("vit", "500k", heads=5, rngs=rngs)
    with pytest.raises(ValueError, match="'fixed', 'ref'"):
        models.create("cnn", "500k", init="torch", rngs=rngs)
    with pytest.raises(ValueError, match="dropout is 1"):
        models.create("vit", "500k", dropout=1, rngs=rngs)
    model = abstract("vit", "500k")
    for shape, message in (
        ((1, 128, 128, 3), "created for 256 x 256"),
        ((1, 3, 256, 256), "channels last"),
    ):
        with pytest.raises(ValueError, match=message):
            model(jnp.zeros(shape))
    with pytest.raises(ValueError, match="normalised floating-point"):
        model(jnp.zeros((1, 256, 256, 3), jnp.uint8))
    with pytest.raises(ValueError, match="multiples of 16"):
        abstract("cnn", "500k")(jnp.zeros((1, 40, 64, 3)))
    with pytest.raises(ValueError, match="rngs is None"):
        output(model, 256, seed=None)


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


@pytest.mark.parametrize(
    "rate", [0.5, 0.1, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.25, 0.9))]
)
def test_dropout(rate):
    x = jnp.ones((64, 100, 127))
    drop = Dropout(rate)
    y, gradient = jax.jit(
        jax.value_and_grad(lambda x: drop(x, Seeds(nnx.Rngs(0))).sum(), has_aux=False)
    )(x)
    y = drop(x, Seeds(nnx.Rngs(0)))
    # The gradient passes through the same elements.
    np.testing.assert_array_equal(gradient, y)
    n = x.size
    kept = float((y > 0).mean())
    assert kept == pytest.approx(1 - rate, abs=4 * np.sqrt(rate * (1 - rate) / n))
    # Unbiased to 1e-4 by construction: value x probability = 1, probability within 2**-17.
    width = next(w for w in (1, 2, 4, 8, 16) if w == 16 or (rate * 2**w).is_integer())
    probability = 1 - round(rate * 2**width) / 2**width
    assert float(y.max()) * probability == pytest.approx(1, abs=1e-6)
    assert probability == pytest.approx(1 - rate, abs=1e-5)
    # Neighbours are independent, along every axis.
    mask = np.asarray(y > 0, np.float64) - (1 - rate)
    for axis in range(3):
        a, b = (np.take(mask, np.arange(mask.shape[axis] - 1) + i, axis) for i in (0, 1))
        assert abs((a * b).mean()) / (rate * (1 - rate)) < 4 / np.sqrt(n)


def test_dropout_seeds():
    x = jnp.ones((1000,))
    seeds = Seeds(nnx.Rngs(dropout=0))
    drop = Dropout(0.5)
    first, second = drop(x, seeds), drop(x, seeds)
    again = drop(x, Seeds(nnx.Rngs(dropout=0)))
    other = drop(x, Seeds(nnx.Rngs(dropout=1)))
    np.testing.assert_array_equal(first, again)
    for different in (second, other):
        assert 0.4 < float((first == different).mean()) < 0.6
    keys = jax.random.split(jax.random.key(0), 4)
    lanes = jax.vmap(lambda key: drop(x, Seeds(nnx.Rngs(dropout=key))))(keys)
    for key, lane in zip(keys, lanes, strict=True):
        np.testing.assert_array_equal(lane, drop(x, Seeds(nnx.Rngs(dropout=key))))


def test_drop_path_drops_samples():
    y = DropPath(0.5)(jnp.ones((4096, 2, 3)), Seeds(nnx.Rngs(0)))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (np.ptp(np.asarray(y), (1, 2)) == 0).all()
    assert float(y.mean()) == pytest.approx(1, abs=4 / np.sqrt(4096))


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


def test_batch_norm_statistics():
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    x = normal(0, 2, 5, 3) * 2 + 1
    y = norm(x)
    np.testing.assert_allclose(y.mean((0, 1)), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(norm.mean[...], 0.1 * x.mean((0, 1)), rtol=1e-6)
    expected = 0.9 + 0.1 * np.asarray(x).reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(norm.var[...], expected, rtol=1e-6)
    norm.eval()
    centred = x - norm.mean[...].reshape(1, 1, 3)
    np.testing.assert_allclose(
        norm(x), centred / jnp.sqrt(norm.var[...] + 1e-5).reshape(1, 1, 3), rtol=1e-5
    )
    norm.train()
    with pytest.raises(ValueError, match="1 value per channel"):
        norm(jnp.ones((1, 3)))


def test_patches_are_convolutions():
    rngs = nnx.Rngs(0)
    x = normal(0, 2, 8, 12, 3)
    down, conv = (
        Downsample(3, 8, patch=4, rngs=rngs),
        nnx.Conv(3, 8, (4, 4), 4, padding="VALID", rngs=rngs),
    )
    models.load_torch(conv, models.to_torch(down))
    both = jax.jit(lambda x: (down(space_to_channels(x, 4)), conv(x)))
    np.testing.assert_allclose(*both(x), atol=1e-6)
    up, transposed = (
        Upsample(3, 5, patch=2, bias_init=nnx.initializers.normal(), rngs=rngs),
        nnx.ConvTranspose(3, 5, (2, 2), (2, 2), padding="VALID", rngs=rngs),
    )
    models.load_torch(transposed, models.to_torch(up))
    np.testing.assert_allclose(*jax.jit(lambda x: (up(x), transposed(x)))(x), atol=1e-6)
    np.testing.assert_array_equal(channels_to_space(space_to_channels(x, 4), 4), x)


def test_torch_names_of_a_model_whose_paths_differ():
    class Net(nnx.Module):
        torch_names = ((r"^layers\.(\d+)\.", r"model.\1.conv."),)

        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 3, use_bias=False, rngs=rngs)])

    weights = {"model.0.conv.weight": np.ones((3, 2), np.float32)}
    model = models.load_torch(Net(nnx.Rngs(0)), weights)
    assert models.to_torch(model).keys() == weights.keys()
    assert (model.layers[0].kernel[...] == 1).all()


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("taps", [(3,), (4, 3), (2, 2, 2)])
def test_torch_weights_of_transposed_convolutions(taps, transpose_kernel):
    layer = nnx.ConvTranspose(
        2, 3, taps, (2,) * len(taps), padding="VALID", transpose_kernel=transpose_kernel,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    weight = np.random.default_rng(0).normal(size=(2, 3, *taps)).astype(np.float32)
    models.load_torch(layer, {"weight": weight, "bias": np.zeros(3, np.float32)})
    # A single pixel leaves its kernel behind.
    x = jnp.zeros((1,) * (len(taps) + 1) + (2,)).at[..., 1].set(1)
    np.testing.assert_allclose(np.moveaxis(np.asarray(layer(x))[0], -1, 0), weight[1], atol=1e-6)


@pytest.mark.parametrize(
    ("sets", "groups", "activation"),
    [(1, 6, RELU), (1, 6, leaky_relu(0.2)), (3, 6, GELU), (3, 2, GELU), (2, 1, IDENTITY)],
)
def test_norm_act(sets, groups, activation):
    x = normal(0, sets, 20, 6) * 2 + 1
    scale, bias = jnp.linspace(0.5, 1.5, 6), jnp.linspace(-1, 1, 6)

    def plain(x, scale, bias):
        grouped = x.reshape(sets, 20, groups, -1)
        mean, var = (f(grouped, (1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
        z = ((grouped - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
        return activation.function(z * scale[None, None] + bias[None, None])

    weights = normal(1, *x.shape)
    ours = lambda *args: norm_act(*args, groups, activation)[0]  # noqa: E731

    @jax.jit
    def results(*args):
        """Both values, and both gradients."""
        pulled = [jax.vjp(f, *args) for f in (ours, plain)]
        return [y for y, _ in pulled], [pull(weights) for _, pull in pulled]

    values, (got, expected) = results(x, scale, bias)
    np.testing.assert_allclose(*values, atol=1e-5)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_gradients_of_norm_act_far_from_zero():
    """Errors are those that float32 makes of x itself: eps times mean over deviation."""
    rng, mean = np.random.default_rng(0), 1000.0
    x = (rng.normal(size=(2, 4096, 3)) + mean).astype(np.float32)
    weights = (rng.normal(size=x.shape) + 0.5 * (x - mean) + 0.3).astype(np.float32)

    def value(x, scale):
        y, _, _ = norm_act(x, scale, jnp.zeros(3), 3)
        return (y * weights).sum()

    got = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(x), jnp.ones(3))
    z, g = x.astype(np.float64), weights.astype(np.float64)
    factor = 1 / np.sqrt(z.var(1, keepdims=True) + 1e-5)
    normal = (z - z.mean(1, keepdims=True)) * factor
    along = (g * normal).mean(1, keepdims=True)
    expected = factor * (g - g.mean(1, keepdims=True) - normal * along), (g * normal).sum((0, 1))
    for a, b in zip(got, expected, strict=True):
        assert np.abs(a - b).max() < np.finfo(np.float32).eps * mean * np.abs(b).max()


def test_windows_cover_regions_once():
    index = relative_position_index(3)
    # Query in the middle: rows and columns of the keys are 1, 0, -1 away.
    away = (1, 0, -1)
    assert index[4].tolist() == [(dy + 2) * 5 + dx + 2 for dy in away for dx in away]
    assert shift_mask(8, 4, 2).shape == (4, 16, 16)
    assert not shift_mask(8, 4, 2)[0].any()
    # With one window, a shift of half cuts it into four quadrants.
    quadrants = (shift_mask(4, 4, 2)[0] == 0).sum(1)
    assert quadrants.tolist() == [4] * 16


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
