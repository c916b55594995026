"""Folders of compressed-tensors and Model-Optimizer: what others read, and what is read back."""

import dataclasses
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors import deserialize

from fp4jax import deploy, nnx as fp4nnx
from fp4jax.deploy.checkpoints import reading
from fp4jax.nnx.packed_files import contents_of
from fp4jax.nnx.slots import layers
from fp4jax.packed.kernel import PackedKernel
from tests.deploy.subjects import full_disk, subject

TARGETS = ("compressed-tensors", "modelopt")
VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
TABLE = np.array([*VALUES, *(-v for v in VALUES)], np.float32)


DTYPES = {"U8": np.uint8, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F32": np.float32}


def load(folder):
    tensors = deserialize((folder / "model.safetensors").read_bytes())
    return {
        # a bytearray, since torch takes no arrays that cannot be written to
        name: np.frombuffer(bytearray(t["data"]), DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in tensors
    }


def decompressed(target, folder, name):
    """By the formulas of their sources: weights (n, k), and the scale of activations."""
    arrays = load(folder)
    if target == "compressed-tensors":
        packed, scale = arrays[f"{name}.weight_packed"], arrays[f"{name}.weight_scale"]
        block = scale.astype(np.float32) / arrays[f"{name}.weight_global_scale"]
        x = arrays.get(f"{name}.input_global_scale")
        x = None if x is None else 1 / x
    else:
        packed, scale = arrays[f"{name}.weight"], arrays[f"{name}.weight_scale"]
        block = scale.astype(np.float32) * arrays[f"{name}.weight_scale_2"]
        x = arrays.get(f"{name}.input_scale")
    n, half = packed.shape
    codes = np.empty((n, 2 * half), np.uint8)
    codes[:, 0::2], codes[:, 1::2] = packed & 0x0F, packed >> 4
    assert scale.dtype == ml_dtypes.float8_e4m3fn
    assert scale.shape == (n, half // 8)
    groups = TABLE[codes].reshape(n, -1, 16) * block[..., None]
    return groups.reshape(n, 2 * half), x


def kernels(model):
    return {one.path: one.module.kernel for one in layers(model) if _packed(one)}


def _packed(layer):
    return isinstance(layer.module.kernel, PackedKernel)


def exported(target, arch, recipe, tmp_path):
    folder = tmp_path / "out"
    account = deploy.export(subject(arch, recipe), target, folder)
    return folder, account, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("target", TARGETS)
def test_linear_layers_are_theirs(target, tmp_path):
    folder, account, config = exported(target, "vit", "full", tmp_path)
    own = config["fp4jax"]["layers"]
    for path, kernel in kernels(subject("vit", "full").model).items():
        weights, x = decompressed(target, folder, path)
        ours = np.asarray(kernel.values.dequantize().T)
        # Their formulas round in another order: a last bit of float32, none of bfloat16.
        np.testing.assert_allclose(weights, ours, rtol=3e-7, atol=0)
        short = (a.astype(ml_dtypes.bfloat16) for a in (weights, ours))
        assert np.mean(np.not_equal(*short)) < 1e-3
        np.testing.assert_allclose(x, own[path]["x_amax"] / 2688, rtol=3e-7)
        assert own[path]["linear"]
    assert {row.written for row in account.layers} == {"FP4 linear layer", "float32"}
    found = config["quantization_config"]
    (group,) = found["config_groups"].values()
    assert found["quant_method"] == target
    assert sorted(group["targets"]) == sorted(own)
    assert group["weights"]["num_bits"] == 4
    assert group["input_activations"]["group_size"] == 16
    assert "patch_embed.proj" in found["ignore"]
    assert not {*found["ignore"]} & {*group["targets"]}
    # What is not packed has torch's names and layout.
    assert load(folder)["patch_embed.proj.weight"].shape == (32, 2, 8, 8)


def test_configurations_that_loaders_look_for(tmp_path):
    _, _, config = exported("compressed-tensors", "vit", "full", tmp_path)
    record = config["quantization_config"]
    assert record["format"] == "nvfp4-pack-quantized"
    assert record["config_groups"]["group_0"]["input_activations"]["dynamic"] == "local"
    folder = tmp_path / "modelopt"
    deploy.export(subject("vit", "full"), "modelopt", folder)
    other = json.loads((folder / "hf_quant_config.json").read_text())
    assert other["producer"]["name"] == "modelopt"
    assert other["quantization"]["quant_algo"] == "NVFP4"
    assert other["quantization"]["group_size"] == 16


@pytest.mark.parametrize(
    ("target", "recipe"),
    [
        ("compressed-tensors", "2d+rht"),
        pytest.param("modelopt", "2d+rht", marks=pytest.mark.slow),
        pytest.param("modelopt", "forward_only+rht", marks=pytest.mark.slow),
        pytest.param("compressed-tensors", "forward_only+rht", marks=pytest.mark.slow),
    ],
)
def test_convolutions_are_matrices_whose_layout_is_stated(target, recipe, tmp_path):
    folder, account, config = exported(target, "unet", recipe, tmp_path)
    original = subject("unet", recipe)
    # Nobody takes them for linear layers.
    found = config["quantization_config"]
    assert found["config_groups"] == {}
    assert {*config["fp4jax"]["layers"]} <= {*found["ignore"]}
    assert any("layout stated" in row.written for row in account.layers)
    plain = fp4nnx.unpack(original.model)
    float_kernels = {layer.path: layer.module.kernel.get_value() for layer in layers(plain)}
    for name, own in config["fp4jax"]["layers"].items():
        stored, (matrix, _) = own["stored"], decompressed(target, folder, name)
        assert not own["linear"]
        assert (stored["hadamard"] is not None) == (recipe == "forward_only+rht")
        kernel = from_matrix(matrix, own)
        ours = np.asarray(float_kernels[own["path"]])
        np.testing.assert_allclose(kernel, ours, rtol=0, atol=1e-6 * np.abs(ours).max())
    again = deploy.read_checkpoint(folder)
    assert again.about == original.about
    expected = contents_of(original.model)
    read = contents_of(again.model)
    assert read.layers == expected.layers
    for key, array in expected.arrays.items():
        assert read.arrays[key].tobytes() == array.tobytes(), key


def from_matrix(matrix, own):
    """A kernel from rows and the layout beside them, rotated back if need be."""
    stored = own["stored"]
    if stored["hadamard"]:
        h = np.array([[1, 1], [1, -1]], np.float32)
        h = np.kron(np.kron(h, h), np.kron(h, h)) / 4
        runs = matrix.reshape(len(matrix), -1, 16)
        matrix = (runs @ h * np.float32(stored["hadamard"])).reshape(matrix.shape)
    rows = [length for _, length, _ in (*stored["leading"], *stored["rows"])]
    whole = matrix.reshape(*rows, *(full for _, _, full in stored["columns"]))
    cut = whole[(..., *(slice(length) for _, length, _ in stored["columns"]))]
    names = [name for part in ("leading", "rows", "columns") for name, *_ in stored[part]]
    kernel = cut.transpose([names.index(name) for name in stored["kernel_axes"]])
    if stored["taps_reversed"]:
        kernel = np.flip(kernel, [i for i, n in enumerate(stored["kernel_axes"]) if "tap" in n])
    return kernel.reshape(own["kernel_shape"])


def test_weights_alone():
    """Activations in high precision need no scale, and are another scheme of theirs."""
    from fp4jax.deploy.checkpoints.conventions import COMPRESSED_TENSORS, MODELOPT

    layers = (["a"], ["b"])
    groups = COMPRESSED_TENSORS.config(layers, ["c"])["config_groups"]
    assert [group["input_activations"] is None for group in groups.values()] == [False, True]
    mixed = MODELOPT.files(layers, ["c"])["hf_quant_config.json"]["quantization"]
    assert mixed["quant_algo"] == "MIXED_PRECISION"
    assert mixed["quantized_layers"]["b"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}
    # All zeros: any scale, and none that is infinite.
    assert COMPRESSED_TENSORS.number(np.float32(0), 2688.0) == 1
    with pytest.raises(ValueError, match="amax is nan, of which compressed-tensors has no finite"):
        COMPRESSED_TENSORS.number(np.float32(np.nan), 2688.0)
    with pytest.raises(ValueError, match="no finite scale"):
        COMPRESSED_TENSORS.number(np.float32(1e-37), 2688.0)


def test_errors_leave_nothing(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        deploy.export(subject("vit", "full"), "modelopt", tmp_path / "out")
    with pytest.raises(ValueError, match=r"takes the scale of its activations from each batch"):
        deploy.export(subject("vit", "full", static=False), "modelopt", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        deploy.export(subject("vit", "full"), "modelopt", tmp_path / "out")


def test_stacks_and_unpacked_products_are_refused():
    from fp4jax.deploy.checkpoints.layers import parts_of

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stack = nnx.vmap(lambda rngs: nnx.Linear(16, 16, rngs=rngs))(rngs.split(2))

    stacked = fp4nnx.apply_recipe(Net(nnx.Rngs(0)), "full", verbose=False)
    fp4nnx.expect_static(stacked)
    fp4nnx.set_static_amaxes(stacked, {"stack": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"'stack' is a stack of \(2,\) layers"):
        parts_of(fp4nnx.pack(stacked))


def test_folders_that_cannot_be_read(tmp_path):
    folder, _, config = exported("modelopt", "vit", "full", tmp_path)
    matrices = deploy.read_matrices(folder)
    assert matrices["blocks.0.mlp.fc1"].rows.codes.shape == (192, 16)
    assert reading.is_checkpoint(folder)
    assert not reading.is_checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps({**config, "fp4jax": {}}))
    with pytest.raises(ValueError, match=r"is damaged: config\.json is incomplete"):
        deploy.read_checkpoint(folder)
    del config["fp4jax"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="fp4jax did not write it"):
        deploy.read_checkpoint(folder)
    assert dataclasses.asdict(deploy.read_matrices(folder)["blocks.0.mlp.fc1"])["scale"] > 0
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="quant_method None; allowed: compressed-tensors, m"):
        deploy.read_matrices(folder)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit", "unet"])
def test_the_decompressor_of_compressed_tensors(arch, tmp_path):
    """Their own code on the CPU, in bfloat16: our dequantized weights, rounded once."""
    torch = pytest.importorskip("torch")
    nvfp4 = pytest.importorskip("compressed_tensors.compressors.nvfp4.base")
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import NVFP4

    scheme = QuantizationScheme(**NVFP4, targets=["Linear"])
    folder, _, config = exported("compressed-tensors", arch, "2d+rht", tmp_path)
    QuantizationConfig.model_validate(config["quantization_config"])
    arrays = load(folder)
    for name in config["fp4jax"]["layers"]:
        bytes_of = arrays[f"{name}.weight_scale"].view(np.uint8)
        state = {
            "weight_packed": torch.from_numpy(arrays[f"{name}.weight_packed"]),
            "weight_scale": torch.from_numpy(bytes_of).view(torch.float8_e4m3fn),
            "weight_global_scale": torch.from_numpy(arrays[f"{name}.weight_global_scale"]),
        }
        weight = nvfp4.NVFP4PackedCompressor.decompress(state, scheme)["weight"]
        ours, _ = decompressed("compressed-tensors", folder, name)
        theirs = weight.to(torch.float32).numpy()
        np.testing.assert_array_equal(theirs, ours.astype(ml_dtypes.bfloat16).astype(np.float32))
