"""Swin UNETR, U-Net and BasicUNet: MONAI's outputs and gradients, sizes, options, recipes."""

import pathlib
import pickle
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import models, nnx as fp4nnx
from fp4jax.models.basic_unet import max_pool
from fp4jax.models.dropout import Seeds
from fp4jax.models.norms import PRELU, norm_act
from fp4jax.models.windows import Tiling, relative_position_index
from tests.checks import assert_same_sums
from tests.samples import normal

NAMES = ("swin_unetr", "unet", "basic_unet")
TOLERANCE = 1e-5

# Parameters of MONAI's networks, and of the scales, with 3 inputs and 1 output in 2D.
VOLUME = {"spatial_dims": 3, "in_channels": 4, "num_classes": 3, "feature_size": 12}
V2 = {"use_v2": True, "patch_merging": "mergingv2"}
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


def create(name, **options):
    return models.create(name, rngs=nnx.Rngs(0), **options)


def first(a):
    """Channels last to channels first."""
    return np.moveaxis(np.asarray(a), -1, 1)


def last(a):
    """Channels first to channels last, float32."""
    return jnp.asarray(np.moveaxis(np.asarray(a), 1, -1), jnp.float32)


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


def golden_model(golden, file, name, **options):
    arrays = golden(file)
    model = nnx.eval_shape(lambda: create(name, **options))  # the file has all values
    params = {k[6:]: arrays[k] for k in arrays.files if k.startswith("param.")}
    models.load_torch(model, params)
    model.eval()
    back = models.to_torch(model)
    assert all((back[k] == params[k].astype(np.float32)).all() for k in back)
    return arrays, model


@pytest.mark.parametrize(
    "size",
    [
        pytest.param("", marks=pytest.mark.slow),
        pytest.param("_96", marks=pytest.mark.slow),
        "_64x96",
    ],
    ids=["128", "96", "64x96"],
)
def test_golden_swin_unetr(golden, size):
    arrays, model = golden_model(golden, "monai_swinunetr2d_f24.npz", "swin_unetr")
    index = relative_position_index((7, 7))
    np.testing.assert_array_equal(index, arrays["aux.relative_position_index"])
    both = nnx.jit(lambda model, x: (model(x), model.swin(x, Seeds(None))))
    y, hidden = both(model, last(arrays["x" + size]))
    np.testing.assert_allclose(first(y), arrays["y" + size], rtol=0, atol=TOLERANCE)
    if not size:
        for i, state in enumerate(hidden):
            expected = arrays[f"hidden{i}"]
            np.testing.assert_allclose(first(state), expected, rtol=0, atol=TOLERANCE)


def test_golden_unet(golden):
    arrays, model = golden_model(golden, "monai_unet2d_res2_instance.npz", "unet", num_res_units=2)
    y = nnx.jit(lambda model, x: model(x))(model, last(arrays["x"]))
    np.testing.assert_allclose(first(y), arrays["y"], rtol=0, atol=2 * TOLERANCE)


@pytest.fixture
def monai():
    """MONAI's networks, if they are installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch")
        pytest.importorskip("monai.networks.nets")
        from monai.networks import nets
    return nets


def perturbed(net, seed=7):
    """The network with parameters and statistics that no part of it can ignore."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.add_(0.1 * torch.randn(p.shape))
            elif "table" in name:
                p.normal_(0, 0.5)
            elif p.ndim == 1:
                p.uniform_(0.1, 1.3)
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(0, 0.3)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 1.5)
    return net


def numpy_state(net):
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


PLAIN = {"channels": (8, 16, 32), "strides": (2, (1, 4)), "norm": "batch", "act": "relu"}
RESIDUAL = {"channels": (8, 16, 32), "strides": (1, 2), "num_res_units": 3, "act": "leakyrelu"}
SMALL = (8, 8, 16, 16, 32, 8)
OPEN = {
    "feature_size": 12, "depths": (1, 2, 3, 1), "window_size": (5, 4), "qkv_bias": False,
    "mlp_ratio": 2.0, "normalize": False, "use_v2": True,
}  # fmt: skip
CASES = {
    # (class, dimensions, our options, MONAI's where they differ, size of the image)
    "unet2d": ("UNet", 2, PLAIN, {}, (24, 40)),
    "unet2d_res3": ("UNet", 2, {**RESIDUAL, "norm": "batch"}, {}, (24, 40)),
    "unet3d": (
        "UNet", 3, {"channels": (4, 8, 16), "strides": (2, 2), "num_res_units": 2}, {},
        (8, 12, 16),
    ),
    "basic2d_odd": ("BasicUNet", 2, {"features": SMALL}, {}, (35, 49)),
    "basic3d": ("BasicUNet", 3, {"features": SMALL}, {}, (32, 19, 17)),
    "swin2d": ("SwinUNETR", 2, OPEN, {}, (64, 96)),
    "swin3d": ("SwinUNETR", 3, {"feature_size": 12}, {}, (64, 64, 64)),
    "swin3d_v2": (
        "SwinUNETR", 3, {"feature_size": 12, **V2},
        {"use_v2": True, "downsample": "mergingv2"}, (32, 32, 64),
    ),
}  # fmt: skip
SLOW = ("unet2d_res3", "basic3d", "swin3d", "swin3d_v2")
OURS = {"UNet": "unet", "BasicUNet": "basic_unet", "SwinUNETR": "swin_unetr"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CASES]
)
def test_equals_monai(monai, case):
    """Outputs in both modes; running statistics and, in 2D, gradients."""
    import torch

    kind, dims, options, theirs, size = CASES[case]
    renamed = {k: v for k, v in options.items() if k != "patch_merging"} | theirs
    if kind == "UNet":
        net = monai.UNet(dims, 2, 3, **renamed)
    else:
        net = getattr(monai, kind)(spatial_dims=dims, in_channels=2, out_channels=3, **renamed)
    perturbed(net)
    model = create(OURS[kind], spatial_dims=dims, in_channels=2, num_classes=3, **options)
    models.load_torch(model, numpy_state(net))
    x, weights = torch.randn(2, 2, *size), torch.randn(2, 3, *size)
    if case.startswith("swin3d"):
        x = x[:1]
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def run(params, rest, x, weights):
        """Output in evaluation mode; output, gradients and statistics in training mode."""

        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            model.train()
            y = model(x)
            return (y * weights).mean(), (y, nnx.state(model, nnx.BatchStat))

        model = nnx.merge(graph, params, rest, copy=True)
        model.eval()
        if case.startswith("swin3d"):
            return model(x), None, None
        return model(x), *jax.value_and_grad(loss, has_aux=True)(params)

    y, aux, gradients = run(params, rest, last(x), last(weights))
    net.eval()
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(first(y), expected, rtol=0, atol=TOLERANCE)
    if aux is None:
        return
    net.train()
    expected = net(x)
    (expected * weights).mean().backward()
    trained, statistics = aux[1]
    np.testing.assert_allclose(first(trained), expected.detach(), rtol=0, atol=2 * TOLERANCE)
    nnx.update(model, statistics)
    after = models.to_torch(model)
    for name, buffer in net.named_buffers():
        if "running" in name:
            np.testing.assert_allclose(after[name], buffer, rtol=1e-5, atol=1e-6)
    nnx.update(model, gradients)
    ours = models.to_torch(model)
    for name, p in net.named_parameters():
        # A bias in front of an instance norm has no effect.
        largest = max(float(p.grad.abs().max()), 1e-4)
        np.testing.assert_allclose(ours[name], p.grad, rtol=0, atol=2e-4 * largest, err_msg=name)


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


def test_windows():
    x = normal(0, 2, 5, 3, 8, 4)
    tiling = Tiling.fit((5, 3, 8), (3, 3, 3), shifted=True)
    assert tiling == Tiling((5, 3, 8), (3, 3, 3), (1, 0, 1))
    windows = tiling.split(tiling.pad(x))
    assert windows.shape == (2, 6, 27, 4)
    np.testing.assert_array_equal(tiling.join(windows), x)
    # The first window is whole; the last one has both ends of both shifted axes.
    regions = tiling.regions()
    assert [len(set(r)) for r in regions] == [1, 1, 2, 2, 2, 4]
    assert Tiling.fit((5, 3, 8), (3, 3, 3), shifted=False).regions() is None
    # A window of a small grid has the first tokens' rows of the nominal index.
    assert relative_position_index((3, 3))[:4, :4].tolist() != (
        relative_position_index((2, 2)).tolist()
    )


def test_prelu_behind_a_norm():
    x = normal(0, 2, 20, 6) * 2 + 1
    scale, bias, slope = jnp.linspace(0.5, 1.5, 6), jnp.linspace(-1, 1, 6), jnp.array([0.3])

    def plain(x, scale, bias, slope):
        mean, var = (f(x, 1, keepdims=True) for f in (jnp.mean, jnp.var))
        z = (x - mean) / jnp.sqrt(var + 1e-5) * scale[None, None] + bias[None, None]
        return jnp.maximum(z, 0) + slope[None, None] * jnp.minimum(z, 0)

    ours = lambda x, scale, bias, slope: norm_act(  # noqa: E731
        x, scale, bias, 6, PRELU, slope=slope
    )[0]
    g = normal(1, *x.shape)
    results = []
    for f in (ours, plain):
        y, pull = jax.vjp(f, x, scale, bias, slope)
        results.append([y, *pull(g)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_max_pool_takes_the_first_of_equals():
    x = jnp.array([[1.0, 1.0, 2.0, 5.0, 9.0], [1.0, 0.0, jnp.nan, 7.0, 9.0]])[None, :, :, None]
    y, pull = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(y.ravel(), [1, jnp.nan])
    (g,) = pull(jnp.ones_like(y))
    assert jnp.argwhere(g[0, :, :, 0]).tolist() == [[0, 0], [1, 2]]


def test_read_weights(tmp_path):
    weights = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.arange(3, dtype=np.float16)}

    def same(path, expected=weights):
        got = models.read_weights(path)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, strict=True)

    np.savez(tmp_path / "w.npz", **{f"module.model.{k}": v for k, v in weights.items()})
    same(tmp_path / "w.npz")
    # Names of a U-Net begin with "model." themselves.
    unet = {"model.0.conv.weight": np.ones(3)}
    np.savez(tmp_path / "unet.npz", **{f"net.{k}": v for k, v in unet.items()})
    same(tmp_path / "unet.npz", unet)
    np.savez(tmp_path / "object.npz", a=np.array([{}], object))
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "w.txt").write_text("1")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678 not a header")
    for name, message in (
        ("object.npz", "no npz file of plain arrays"),
        ("empty.npz", "contains no arrays"),
        ("w.txt", "allowed: .safetensors"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            models.read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        models.read_weights(tmp_path / "none.pt")


def test_read_weights_of_safetensors(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    weights = {"w": np.ones((2, 3), np.float32), "i": np.arange(4), "b": np.ones(2, jnp.bfloat16)}
    numpy.save_file({f"module.{k}": v for k, v in weights.items()}, tmp_path / "w.safetensors")
    got = models.read_weights(tmp_path / "w.safetensors")
    assert got.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(got[name], value, strict=True)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678 not a header")
    with pytest.raises(ValueError, match="no safetensors file"):
        models.read_weights(tmp_path / "bad.safetensors")


def test_read_weights_of_torch(tmp_path):
    path = tmp_path / "w.pt"
    # Whether torch is there or not, nothing of a pickle is run.
    with open(path, "wb") as file:
        pickle.dump(Touch(tmp_path / "touched"), file, protocol=2)  # torch warns of others
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        models.read_weights(path)
    assert "\n" not in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert not (tmp_path / "touched").exists()
    torch = pytest.importorskip("torch")
    tensors = {"module.w": torch.ones(2, 3), "module.b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    got = models.read_weights(path)
    assert {k: (v.shape, str(v.dtype)) for k, v in got.items()} == {
        "w": ((2, 3), "float32"),
        "b": ((2,), "float32"),
    }


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)
