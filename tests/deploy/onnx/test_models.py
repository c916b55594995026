"""All networks in all dialects: against the packed model, part by part and as a whole."""

import numpy as np
import pytest
from flax import nnx

from fp4jax import models, recipes
from fp4jax.deploy.onnx import running
from fp4jax.deploy.onnx.dialects import DIALECTS
from fp4jax.deploy.onnx.model import Written, to_onnx
from fp4jax.deploy.onnx.verification import compare
from fp4jax.ops.recipe import get_recipe
from tests.deploy.onnx.packed_layers import network

NETWORKS = {
    "cnn": ("cnn", 16, {"stages": 2, "channels": 16}),
    "vit": ("vit", 32, {"dim": 32, "depth": 2, "heads": 2, "hidden": 64}),
    "swin": ("swin", 64, {"dim": 32, "depth": 2, "heads": 2, "window": 2}),
    "unet2d": ("unet", 16, {"channels": (16, 32), "strides": (2,), "spatial_dims": 2}),
    "unet3d": ("unet", 8, {"channels": (16, 32), "strides": (2,), "spatial_dims": 3}),
    "basic_unet2d": ("basic_unet", (32, 16), {"features": (16,) * 6, "spatial_dims": 2}),
    "basic_unet3d": ("basic_unet", (32, 16, 16), {"features": (16,) * 6, "spatial_dims": 3}),
    "swin_unetr2d": ("swin_unetr", (64, 32), {"feature_size": 12, "spatial_dims": 2}),
    "swin_unetr3d": ("swin_unetr", (64, 32, 32), {"feature_size": 12, "spatial_dims": 3}),
}


def _check(
    name: str, dialect: str, recipe: str, batch: int | None, half: str = "float32"
) -> Written:
    arch, size, options = NETWORKS[name]
    known = DIALECTS[dialect].with_half(half)
    # A learned amax is one that is known, too.
    amax_of_x = get_recipe(recipe).fprop[0].amax
    static = known.static or amax_of_x == "learned"
    model, x = network(arch, size, recipe, static=static, **options)
    written = to_onnx(model, x.shape[1:], known, batch=batch)
    run = running.runtime if known.runs_in_onnxruntime else running.reference
    found = compare(written, model, x, run)
    # The parts together are the whole. As a whole a last bit may round an activation to the next
    # code, of which a norm over the two voxels of a small image makes any difference.
    assert found.worst[1] <= 1e-5, found.worst
    return written


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, dialect, batch):
    _check(name, dialect, "2d+rht", batch)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("recipe", recipes())
def test_recipes(recipe, dialect):
    spec = get_recipe(recipe)
    if spec.stochastic_forward or spec.fprop[1] is None:
        pytest.skip("nothing to pack, or a stochastic forward pass")
    _check("cnn", dialect, recipe, None)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("recipe", ["2d+rht", "forward_only+4o6"])
@pytest.mark.parametrize("name", ["unet2d", "basic_unet3d", "vit"])
def test_products_in_16_bits(name, recipe, half):
    written = _check(name, "onnx-trt", recipe, None, half)
    forms = {call.form for call in written.calls}
    # Of the U-Nets one has matrix products: its upsampling.
    assert ("dot" in forms) == (recipe == "2d+rht" and name != "unet2d")
    assert ("half" in forms) == (recipe != "2d+rht" or name != "vit")


def test_a_network_of_any_batch_is_that_of_each_example_alone():
    _check("swin", "onnx-portable", "full", None)


def test_a_network_without_recipe():
    model = models.create("unet", image_size=8, channels=(8, 8), strides=(2,), rngs=nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    written = to_onnx(model, (8, 8, 3), DIALECTS["onnx-portable"])
    assert compare(written, model, x, running.runtime).logits <= 1e-5
