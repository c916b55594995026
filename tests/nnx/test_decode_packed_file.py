"""A packed file read without fp4jax: NumPy and the text of its header are enough."""

import functools
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from tests.checks import diagonal
from tests.nnx.test_packing import W4A16, apply, id_of, quietly

GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
DTYPES = {"U8": np.uint8, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F32": np.float32}


def read(path):
    """Arrays, and the records of the layers."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    arrays = {}
    for name, about in header.items():
        begin, end = (start + offset for offset in about["data_offsets"])
        arrays[name] = np.frombuffer(data[begin:end], DTYPES[about["dtype"]]).reshape(
            about["shape"]
        )
    return arrays, json.loads(metadata["layers"]), json.loads(metadata["recipes"])


def decode(arrays, path, record):
    """One layer's float kernel."""
    stored = record["stored"]
    prefix = f"{path}.kernel." if path else "kernel."
    packed, scales, amax = (arrays[prefix + n] for n in ("codes", "block_scales", "amax"))
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
    values = np.where(codes & 8, -1, 1).astype(np.float32) * GRID[codes & 7]
    for axis, size in enumerate(stored["block"], start=-2):
        scales = scales.repeat(size, axis)
    per_code = scales.astype(np.float32) * amax * np.float32(1 / stored["bound"])
    matrix = values * per_code
    if stored["hadamard"]:
        h = functools.reduce(np.kron, [np.array([[1, 1], [1, -1]], np.float32)] * 4) / 4
        runs = matrix.reshape(*matrix.shape[:-1], -1, 16)
        matrix = (runs @ h * np.float32(stored["hadamard"])).reshape(matrix.shape)
    axes = [*stored["leading"], *stored["rows"], *stored["columns"]]
    whole = matrix.reshape([length for _, _, length in axes])
    cut = whole[tuple(slice(length) for _, length, _ in axes)]
    names = [name for name, _, _ in axes]
    kernel = cut.transpose([names.index(name) for name in stored["kernel_axes"]])
    if stored["taps_reversed"]:
        taps = [a for a, name in enumerate(stored["kernel_axes"]) if name.startswith("tap")]
        kernel = np.flip(kernel, taps)
    return kernel.reshape(record["kernel_shape"])


LAYERS = {
    "Linear": functools.partial(nnx.Linear, 20, 18),
    "LinearGeneral": functools.partial(
        nnx.LinearGeneral, (5, 4), (3, 6), axis=(-2, -1), batch_axis={0: 2}
    ),
    "Conv": functools.partial(nnx.Conv, 20, 18, (3, 2), (2, 1), padding=((1, 0), (0, 1))),
    "Conv, groups": functools.partial(
        nnx.Conv, 20, 18, 3, feature_group_count=2, padding="VALID", kernel_dilation=2
    ),
    "ConvTranspose": functools.partial(nnx.ConvTranspose, 20, 18, (4, 3), (2, 2)),
    "ConvTranspose, flipped": functools.partial(
        nnx.ConvTranspose, 20, 18, (4, 3), 2, transpose_kernel=True
    ),
}


def expected(layer, record, recipe):
    """The layer's kernel, quantized along its inputs and dequantized."""
    spec, kernel = fp4.get_recipe(recipe).fprop[1], layer.kernel.get_value()
    flipped = record["call"].get("transpose_kernel", False)
    groups = record["call"].get("groups", 1)
    if record["kind"] == "LinearGeneral":
        matrices = kernel.reshape(2, 20, 18)
        axis = -2
    else:
        matrices = kernel.reshape(*kernel.shape[:-1], groups, -1) if groups > 1 else kernel
        axis = -1 if flipped else -3 if groups > 1 else -2
    out = -2 if flipped else -1
    return fp4.fake_quantize(matrices, spec, axis if spec.block[0] == 1 else (out, axis)).reshape(
        kernel.shape
    )


@pytest.mark.parametrize(
    ("name", "recipe"),
    diagonal(list(LAYERS), ["full", "2d+rht", "forward_only+rht", W4A16]),
    ids=id_of,
)
def test_kernels_from_a_file_alone(name, recipe, tmp_path):
    layer = apply(LAYERS[name](rngs=nnx.Rngs(0)), recipe)
    path = fp4nnx.save_packed(tmp_path / "m.safetensors", quietly(layer))
    arrays, records, recipes = read(path)
    (record,) = records.values()
    assert record["kind"] == name.split(",")[0]
    assert recipes[record["recipe"]]["name"] == fp4.get_recipe(recipe).name
    kernel = decode(arrays, "", record)
    np.testing.assert_allclose(kernel, expected(layer, record, recipe), rtol=0, atol=1e-6)
    assert kernel.shape == layer.kernel.shape


def test_a_convolution_from_a_file_alone(tmp_path):
    """With the arguments of its call, its result too."""
    layer = apply(LAYERS["Conv, groups"](rngs=nnx.Rngs(0)), W4A16)
    arrays, records, _ = read(fp4nnx.save_packed(tmp_path / "m.safetensors", quietly(layer)))
    call, kernel = records[""]["call"], decode(arrays, "", records[""])
    assert call["padding"] == "VALID"
    x = np.random.default_rng(0).normal(size=(2, 9, 20)).astype(np.float32)
    step, (dilation,) = call["strides"][0], call["kernel_dilation"]
    y = np.zeros((2, 5, 18), np.float32)
    for group in range(call["groups"]):
        inside, outside = slice(10 * group, 10 * group + 10), slice(9 * group, 9 * group + 9)
        for tap in range(3):
            seen = x[:, tap * dilation :: step, inside][:, :5]
            y[..., outside] += seen @ kernel[tap, :, outside]
    np.testing.assert_allclose(y + arrays["bias"], layer(jnp.asarray(x)), rtol=0, atol=1e-5)


def test_layers_of_a_model_and_stacks(tmp_path):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stack = nnx.vmap(lambda rngs: nnx.Linear(20, 18, rngs=rngs))(rngs.split(3))
            self.kept = nnx.Conv(18, 4, (3,), strides=2, rngs=rngs)

        def __call__(self, x):
            return self.kept(x)

    model = apply(Net(nnx.Rngs(0)), "full", keep="kept")
    arrays, records, _ = read(fp4nnx.save_packed(tmp_path / "m.safetensors", quietly(model)))
    assert records["stack"]["stored"]["stack"] == [3]
    assert records["stack"]["kernel_shape"] == [20, 18]
    assert arrays["stack.kernel.amax"].shape == (3,)
    assert records["kept"]["stored"] is None
    assert records["kept"]["call"]["strides"] == [2]
    assert arrays["kept.kernel"].shape == tuple(records["kept"]["kernel_shape"])
