"""Bundles of MONAI's: the archive of weights, metadata, configurations, and MONAI's own verdict."""

import collections
import dataclasses
import json
import pickle
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import deploy, models, nnx as fp4nnx
from fp4jax.deploy.monai.configs import inference, metadata
from fp4jax.deploy.monai.network import buffers, network_def
from fp4jax.deploy.monai.target import grid_weights
from fp4jax.deploy.monai.torch_file import write_state_dict
from tests.deploy.subjects import about_of, full_disk, subject

#: Of MONAI's specification and of the schema of its tests.
REQUIRED = (
    *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format", "schema"),
    *("optional_packages_version", "authorship", "dataset_dir", "image_classes", "label_classes"),
    *("pred_classes", "eval_metrics"),
)
OF_A_TENSOR = (
    *("type", "format", "num_channels", "spatial_shape", "dtype", "value_range"),
    *("is_patch_data", "channel_def"),
)
#: What MONAI's schema takes for them; all others are strings.
TYPES = {
    "changelog": dict,
    "required_packages_version": dict,
    "optional_packages_version": dict,
    "network_data_format": dict,
    "eval_metrics": dict,
    "references": list,
}
TYPES_OF_A_TENSOR = {
    "num_channels": int,
    "spatial_shape": list,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}
NAMES = {dict: "object", list: "array", int: "integer", bool: "boolean", str: "string"}


def schema():
    """As a JSON schema, at least as strict as MONAI's, which verify_metadata downloads."""

    def record(required, types):
        properties = {name: {"type": NAMES[types.get(name, str)]} for name in {*required, *types}}
        return {"type": "object", "properties": properties, "required": list(required)}

    tensors = {"type": "object", "additionalProperties": record(OF_A_TENSOR, TYPES_OF_A_TENSOR)}
    whole = record(REQUIRED, TYPES)
    whole["properties"]["network_data_format"] |= {
        "properties": {"inputs": tensors, "outputs": tensors},
        "required": ["inputs", "outputs"],
    }
    return whole


class Reader(pickle.Unpickler):
    """torch.load without torch: nothing but storages and the function that views them."""

    def __init__(self, archive):
        super().__init__(archive.open("model/data.pkl"))
        self.archive = archive

    def find_class(self, module, name):
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
        }
        return known[module, name]

    def persistent_load(self, identity):
        kind, dtype, key, device, count = identity
        assert (kind, device) == ("storage", "cpu")
        storage = np.frombuffer(self.archive.read(f"model/data/{key}"), dtype)
        assert storage.size == count
        return storage

    @staticmethod
    def tensor(storage, offset, size, stride, requires_grad, hooks):
        assert (offset, requires_grad, hooks) == (0, False, {})
        strides = [s * storage.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(storage, size, strides)


def read(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("model/version") == b"3\n"
        for info in archive.infolist():
            begin = info.header_offset + 30 + len(info.filename) + len(info.extra)
            assert begin % 64 == 0
        return Reader(archive).load()


def test_archives_hold_what_was_written(tmp_path):
    arrays = {
        "a.weight": np.random.default_rng(0).normal(size=(3, 2, 1, 5)).astype(np.float32).T,
        "empty": np.zeros((0, 3), np.float32),
        "num_batches_tracked": np.asarray(np.int64(7)),
    }
    write_state_dict(tmp_path / "model.pt", arrays)
    found = read(tmp_path / "model.pt")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(ValueError, match="x is float64; write float32 or int64"):
        write_state_dict(tmp_path / "model.pt", {"x": np.zeros(2)})


def test_weights_lie_on_the_grid_under_their_names():
    packed = subject("unet", "2d+rht")
    weights = grid_weights(packed.model)
    again = models.load_torch(packed.about.create(), weights)
    plain = fp4nnx.unpack(packed.model)
    kernel = np.asarray(plain.bottom.units[0].conv.kernel[...])
    np.testing.assert_array_equal(np.asarray(again.bottom.units[0].conv.kernel[...]), kernel)
    steps = np.unique(np.abs(kernel[0, 0, :16, :16]))
    assert len(steps) <= 8
    assert "model.0.conv.unit0.conv.weight" in weights


@pytest.mark.parametrize("dims", [2, 3])
def test_metadata_have_all_that_is_asked_for(dims):
    about = about_of("unet", "2d+rht", dims)
    one = deploy.Subject(about.create(), about)
    record = json.loads(json.dumps(metadata(one, {"dice": 0.5}), allow_nan=False))
    assert not {*REQUIRED} - {*record}
    for name, value in record.items():
        assert type(value) is TYPES.get(name, str), name
    assert re.fullmatch(r"\d+\.\d+\.\d+", record["version"])
    assert record["version"] in record["changelog"]
    versions = (*record["changelog"].values(), *record["required_packages_version"].values())
    assert all(type(value) is str for value in (*versions, *record["references"]))
    assert set(record["network_data_format"]) == {"inputs", "outputs"}
    (image,) = record["network_data_format"]["inputs"].values()
    pred = record["network_data_format"]["outputs"]["pred"]
    for tensor in (image, pred):
        assert not {*OF_A_TENSOR} - {*tensor}
        for name, value in tensor.items():
            assert type(value) is TYPES_OF_A_TENSOR.get(name, str), name
        assert tensor["spatial_shape"] == [16] * dims
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    assert image["channel_def"] == {"0": "flair", "1": "t1"}
    assert pred["channel_def"] == {"0": "lesion"}
    assert record["eval_metrics"] == {"dice": 0.5}
    config = json.loads(json.dumps(inference(one), allow_nan=False))
    assert config["network_def"]["_target_"] == "UNet"
    assert config["network_def"]["channels"] == [8, 20]
    assert config["inferer"]["_target_"] == (
        "SliceInferer" if dims == 2 else "SlidingWindowInferer"
    )
    discrete = config["postprocessing"]["transforms"][-2]
    assert discrete["threshold"] == about.threshold


def test_networks_that_monai_does_not_have():
    about = about_of("vit", "full")
    with pytest.raises(ValueError, match="vit is no network of MONAI's; bundles are of unet, "):
        network_def(about, about.create())
    swin = dataclasses.replace(about_of("swin_unetr"), options={"feature_size": 16})
    with pytest.raises(ValueError, match=r"feature_size is 16, .* takes multiples of 12"):
        network_def(swin, nnx.eval_shape(swin.create))


def test_what_monai_does_not_have_is_refused_before_anything_is_written(tmp_path):
    about = dataclasses.replace(about_of("swin_unetr"), options={"feature_size": 16})
    one = deploy.Subject(nnx.eval_shape(about.create), about)
    with pytest.raises(ValueError, match=r"--scale monai, or --model.feature-size 12, 24 or 48"):
        deploy.export(one, "monai-bundle", tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_tables_of_windows_are_in_the_state_dict():
    about = about_of("swin_unetr")
    found = buffers(about, ["a.relative_position_bias_table", "n.running_mean", "n.bias"])
    assert found["a.relative_position_index"].shape == (49, 49)
    assert found["n.num_batches_tracked"] == 0
    assert len(found) == 2


def test_a_full_disk_leaves_nothing(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        deploy.export(subject("unet", "2d+rht"), "monai-bundle", tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_bundle_has_the_files_of_the_specification(tmp_path):
    account = deploy.export(subject("unet", "2d+rht"), "monai-bundle", tmp_path / "bundle")
    files = {str(f.relative_to(tmp_path / "bundle")) for f in (tmp_path / "bundle").rglob("*.*")}
    expected = {"configs/metadata.json", "configs/inference.json", "models/model.pt"}
    assert files == expected | {"models/model.onnx", "docs/README.md"}
    assert (tmp_path / "bundle" / "LICENSE").exists()
    assert "onnxruntime" in account.checked


_OF_MONAI = """
import json, sys
import numpy as np, torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
root = sys.argv[1]
# A schema that is there already is not downloaded.
verify_metadata(f"{root}/configs/metadata.json", f"{root}/schema.json")
try:
    verify_metadata(f"{root}/wrong.json", f"{root}/schema.json")
    raise SystemExit("metadata without channels are taken")
except ValueError as error:
    assert "'num_channels' is a required property" in str(error), error
parser = ConfigParser()
parser.read_config(f"{root}/configs/inference.json")
parser["bundle_root"], parser["device"] = root, "cpu"
net = parser.get_parsed_content("network").eval()
net.load_state_dict(torch.load(f"{root}/models/model.pt", weights_only=True), strict=True)
torch.load(f"{root}/models/model.pt", weights_only=True, mmap=True)
with torch.no_grad():
    np.save(f"{root}/y.npy", net(torch.from_numpy(np.load(f"{root}/x.npy"))).numpy())
verify_net_in_out(
    "network_def", meta_file=f"{root}/configs/metadata.json",
    config_file=f"{root}/configs/inference.json", device="cpu",
)
for name in ("preprocessing", "postprocessing", "inferer"):
    parser.get_parsed_content(name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["unet", "basic_unet", "swin_unetr"])
@pytest.mark.parametrize("dims", [2, 3])
def test_monai_runs_the_bundle(arch, dims, tmp_path):
    """In a process of its own; its network gives what the unpacked model gives."""
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    one = subject(arch, "2d+rht", spatial_dims=dims)
    root = tmp_path / "bundle"
    for name in ("configs", "models"):
        (root / name).mkdir(parents=True)
    weights = grid_weights(one.model)
    write_state_dict(root / "models" / "model.pt", weights | buffers(one.about, weights))
    wrong = metadata(one, {})
    del wrong["network_data_format"]["inputs"]["image"]["num_channels"]
    for name, record in {
        "configs/metadata": metadata(one, {}),
        "configs/inference": inference(one),
        "schema": schema(),
        "wrong": wrong,
    }.items():
        (root / f"{name}.json").write_text(json.dumps(record))
    x = one.examples(1)
    last = x.ndim - 1
    np.save(root / "x.npy", x.transpose(0, last, *range(1, last)))
    run = [sys.executable, "-W", "ignore", "-c", _OF_MONAI, str(root)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = np.load(root / "y.npy").transpose(0, *range(2, x.ndim), 1)
    ours = np.asarray(jax.jit(fp4nnx.unpack(one.model))(jnp.asarray(x)))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * np.abs(ours).max())
