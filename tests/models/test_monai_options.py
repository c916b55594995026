"""Swin UNETR, U-Net and BasicUNet: sizes, options, what is refused, recipes in 3D."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from tests.checks import assert_same_sums
from tests.models.monai_networks import SMALL, V2, create
from tests.samples import normal

NAMES = ("swin_unetr", "unet", "basic_unet")

# Parameters of MONAI's networks, and of the scales, with 3 inputs and 1 output in 2D.
VOLUME = {"spatial_dims": 3, "in_channels": 4, "num_classes": 3, "feature_size": 12}
SIZES = [
    ("swin_unetr", {}, 6_302_875),
    ("swin_unetr", VOLUME, 4_079_373),
    ("swin_unetr", {**VOLUME, **V2}, 4_740_333),
    ("swin_unetr", {"scale": "500k"}, 519_039),
    ("swin_unetr", {"scale": "4m"}, 3_611_517),
    ("swin_unetr", {"scale": "15m"}, 14_352_157),
    # Its size replaces that of the scale altogether.
    ("swin_unetr", {"scale": "500k", "feature_size": 24}, 6_302_875),
    ("unet", {"num_res_units": 2}, 1_625_420),
    ("unet", {"norm": "batch", "act": "relu"}, 661_489),
    ("unet", {"scale": "500k"}, 514_600),
    ("unet", {"scale": "4m"}, 3_660_668),
    ("unet", {"scale": "15m"}, 13_701_148),
    ("basic_unet", {}, 1_979_009),
    ("basic_unet", {"scale": "500k"}, 496_193),
    ("basic_unet", {"scale": "4m"}, 3_630_273),
    ("basic_unet", {"scale": "15m"}, 13_930_609),
]


def output(model, shape):
    """Shape and dtype of what an abstract model returns."""
    graph, state = nnx.split(model)
    call = lambda state, x: nnx.merge(graph, state, copy=True)(x)  # noqa: E731
    return jax.eval_shape(call, state, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    # of the scales the smallest
    [
        pytest.param(*size, marks=[pytest.mark.slow] * (size[1].get("scale") in ("4m", "15m")))
        for size in SIZES
    ],
)
def test_parameters(name, options, expected):
    model = nnx.eval_shape(lambda: create(name, **options))
    fp4nnx.apply_recipe(model, "2d+rht+sr", keep=model.high_precision, verbose=False)
    report = fp4nnx.report(model)
    assert report.parameters == expected
    if scale := options.get("scale"):
        assert f"{expected:,}" in type(model).__doc__ or "feature_size" in options
        nominal = {"500k": 5e5, "4m": 4e6, "15m": 15e6}[scale]
        assert "feature_size" in options or abs(expected / nominal - 1) < 0.1
    kept = sum(layer.parameters for layer in report.layers) - sum(
        layer.parameters for layer in report.quantized
    )
    assert 0 < kept < 0.02 * expected


def test_options_and_shapes():
    for name in NAMES:
        assert models.scales(name) == ("500k", "4m", "15m")
        model = nnx.eval_shape(lambda name=name: create(name, spatial_dims=3, scale="500k"))
        assert output(model, (1, 32, 32, 64, 3)).shape == (1, 32, 32, 64, 1)
        assert models.macs(model, (32, 32, 64))
    model = nnx.eval_shape(lambda: create("swin_unetr", image_size=64, dtype=jnp.bfloat16))
    counts = models.macs(model, 64)
    # 32 x 32 tokens of 24 channels; 25 windows of 49 tokens in the padded grid of 35 x 35.
    assert counts["swin.stages.0.blocks.0.attn.qkv"] == 32 * 32 * 24 * 72
    assert counts["swin.stages.0.blocks.1.attn.qk"] == 25 * 49 * 49 * 24


def test_errors():
    with pytest.raises(ValueError, match="multiples of 32"):
        create("swin_unetr", image_size=48)
    with pytest.raises(ValueError, match=r"3 heads do not divide the 16 channels of stage 0"):
        create("swin_unetr", feature_size=16, num_heads=(3, 6, 12, 24))
    with pytest.raises(ValueError, match="allowed: 'merging', 'mergingv2'"):
        create("swin_unetr", patch_merging="v2")
    with pytest.raises(ValueError, match="spatial_dims is 4"):
        create("swin_unetr", spatial_dims=4)
    with pytest.raises(ValueError, match="four numbers"):
        create("swin_unetr", depths=(2, 2, 2))
    with pytest.raises(ValueError, match="one for each of the 3"):
        create("swin_unetr", spatial_dims=3, window_size=(7, 7))
    with pytest.raises(ValueError, match="one stride less"):
        create("unet", strides=(2, 2))
    with pytest.raises(ValueError, match="multiples of 16"):
        create("unet", image_size=40)
    with pytest.raises(ValueError, match="'instance', 'batch'"):
        create("unet", norm="group")
    with pytest.raises(ValueError, match="'prelu', 'relu', 'leakyrelu'"):
        create("unet", act="gelu")
    with pytest.raises(ValueError, match="six numbers"):
        create("basic_unet", features=(8, 8))
    model = nnx.eval_shape(lambda: create("swin_unetr", spatial_dims=3, feature_size=12))
    for shape, message in (
        ((1, 32, 32, 3), r"\(batch, depth, height, width, 3\)"),
        ((1, 32, 32, 48, 3), "multiples of 32"),
        ((1, 32, 32, 32, 3), "1 value per channel"),
    ):
        with pytest.raises(ValueError, match=message):
            output(model, shape)
    model = nnx.eval_shape(lambda: create("basic_unet", features=SMALL))
    with pytest.raises(ValueError, match="at least 16"):
        output(model, (1, 15, 32, 3))


@pytest.mark.slow
def test_recipes_in_three_dimensions():
    """Gradients of a volume are finite under 2d+rht+sr; the baseline changes nothing."""
    small = {
        "spatial_dims": 3, "in_channels": 2, "feature_size": 6, "depths": (1, 2, 1, 1),
        "window_size": 3, "dropout": 0.1, "drop_path": 0.1,
    }  # fmt: skip
    x = normal(0, 1, 32, 32, 64, 2)

    def gradient(recipe):
        model = create("swin_unetr", **small)
        if recipe is not None:
            keep = model.high_precision
            fp4nnx.apply_recipe(model, recipe, keep=keep, verbose=False)
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            y = model(x, rngs=nnx.Rngs(dropout=0))
            return (y**2).mean(), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, plain), _ = gradient(None)
    (_, baseline), expected = gradient("baseline")
    assert_same_sums(plain, baseline)
    (_, quantized), got = gradient("2d+rht+sr")
    assert 0 < jnp.abs(quantized - baseline).max() < 3 * jnp.std(baseline)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.isfinite(a).all()
        assert (jnp.abs(a).max() > 0) == (jnp.abs(b).max() > 0)
