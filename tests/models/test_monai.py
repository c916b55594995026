"""Swin UNETR, U-Net and BasicUNet: MONAI's outputs and gradients."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import models
from fp4jax.models.basic_unet import max_pool
from fp4jax.models.dropout import Seeds
from fp4jax.models.windows import relative_position_index
from tests.models.monai_networks import SMALL, V2, create

TOLERANCE = 1e-5


def first(a):
    """Channels last to channels first."""
    return np.moveaxis(np.asarray(a), -1, 1)


def last(a):
    """Channels first to channels last, float32."""
    return jnp.asarray(np.moveaxis(np.asarray(a), 1, -1), jnp.float32)


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


def test_max_pool_takes_the_first_of_equals():
    x = jnp.array([[1.0, 1.0, 2.0, 5.0, 9.0], [1.0, 0.0, jnp.nan, 7.0, 9.0]])[None, :, :, None]
    y, pull = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(y.ravel(), [1, jnp.nan])
    (g,) = pull(jnp.ones_like(y))
    assert jnp.argwhere(g[0, :, :, 0]).tolist() == [[0, 0], [1, 2]]
