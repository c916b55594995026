"""Sizes of models: parameters, multiply-adds, quantized layers, images; what is refused."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from tests.checks import diagonal

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
