"""export: one call, a file that was compared, and errors that leave nothing."""

import dataclasses
import errno
import functools
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx
from fp4jax.deploy import Options, Subject
from fp4jax.deploy.onnx import running, verification
from fp4jax.predict import About, save_packed

_ABOUT = About(
    "cnn",
    "500k",
    image_size=8,
    options={"stages": 2, "channels": 16},
    recipe="forward_only",
    mean=(0.1, 0.2, 0.3),
)


@functools.cache
def _subject() -> Subject:
    model = _ABOUT.create()
    fp4nnx.apply_recipe(model, "forward_only")
    model.eval()
    return Subject(fp4nnx.pack(model), _ABOUT)


def test_a_packed_file_becomes_a_file_that_says_what_it_is(tmp_path):
    packed = save_packed(tmp_path / "cnn.safetensors", _subject().model, _ABOUT)
    account = deploy.export(
        packed, "onnx-portable", tmp_path / "cnn.onnx", Options(batch=1, channels_first=True)
    )
    assert account.nbytes == (tmp_path / "cnn.onnx").stat().st_size
    model = onnx.load(tmp_path / "cnn.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 3, 8, 8], [1, 1, 8, 8]]
    text = {entry.key: entry.value for entry in model.metadata_props}
    assert (text["recipe"], text["layout"]) == ("forward_only", "bcyx")
    written = [(row.path, row.written) for row in account.layers]
    assert ("encoders.0", "float32 convolution of FP4 values") in written
    assert all(how != "float32" for _, how in written)
    assert "onnxruntime" in account.checked
    assert str(account).splitlines()[-1].startswith(f"{tmp_path}/cnn.onnx: onnx-portable, ")


def test_a_model_in_bfloat16_is_read_in_float32(tmp_path, caplog):
    about = dataclasses.replace(_ABOUT, dtype="bfloat16")
    model = fp4nnx.apply_recipe(about.create(), "forward_only", verbose=False)
    model.eval()
    path = save_packed(tmp_path / "cnn.safetensors", fp4nnx.pack(model), about)
    one = deploy.read_subject(path)
    assert "computes in bfloat16, and is read in float32" in caplog.text
    assert one.about == _ABOUT
    graph, state = nnx.split(one.model)
    images = one.examples(1)
    assert jax.eval_shape(lambda x: nnx.merge(graph, state)(x), images).dtype == np.float32


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*none; name a run's folder .*, a packed"):
        deploy.export(tmp_path / "none", "onnx-portable", tmp_path / "cnn.onnx")


def test_nothing_is_overwritten_and_targets_are_named(tmp_path):
    path = tmp_path / "cnn.onnx"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"cnn\.onnx exists"):
        deploy.export(_subject(), "onnx-portable", path)
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="no target 'onnx'; known names: onnx-portable, "):
        deploy.export(_subject(), "onnx", tmp_path / "new.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"link\.onnx exists"):
        deploy.export(_subject(), "onnx-portable", link)
    assert link.is_symlink()
    with pytest.raises(FileNotFoundError, match="is no folder"):
        deploy.export(_subject(), "onnx-portable", tmp_path / "none" / "new.onnx")


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    far = verification.Difference(0.5, 0.5, {"encoders.0.0": 0.25, "logits": 0.1})
    monkeypatch.setattr(verification, "compare", lambda *args: far)
    with pytest.raises(ValueError, match=r"2.5e-01 of the largest magnitude in encoders"):
        deploy.export(_subject(), "onnx-portable", tmp_path / "cnn.onnx", Options(batch=1))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    near = verification.Difference(0.0, 0.0, {"logits": 0.0})
    monkeypatch.setattr(verification, "compare", lambda *args: near)

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*cnn\.onnx'"):
        deploy.export(_subject(), "onnx-portable", tmp_path / "cnn.onnx", Options(batch=1))
    assert not list(tmp_path.iterdir())


def test_what_is_compared_finds_a_wrong_weight():
    from fp4jax.deploy.onnx.dialects import DIALECTS
    from fp4jax.deploy.onnx.model import to_onnx

    subject = _subject()
    written = to_onnx(subject.model, subject.image, DIALECTS["onnx-portable"], batch=1)
    scale = next(t for t in written.model.graph.initializer if "f32_scale" in t.name)
    value = onnx.numpy_helper.to_array(scale)
    scale.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value * np.float32(1.01)), scale.name))
    images = subject.examples(1)
    found = verification.compare(written, subject.model, images, running.runtime)
    path = scale.name.removesuffix("_f8_scale_f32_scale")
    assert found.worst[0] == path
    assert 0.005 < found.parts[path] < 0.05
    assert all(value < 1e-5 for name, value in found.parts.items() if name != path)


def test_subjects_that_cannot_be_written(tmp_path):
    model = fp4nnx.apply_recipe(_ABOUT.create(), "full")
    with pytest.raises(ValueError, match="has a recipe and is not packed"):
        Subject(model, _ABOUT)
    with pytest.raises(ValueError, match="computes in bfloat16"):
        Subject(_subject().model, About("cnn", "500k", dtype="bfloat16"))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="recipe is for runs"):
        deploy.read_subject(tmp_path / "model.safetensors", recipe="full")
    folder = tmp_path / "modelopt"
    folder.mkdir()
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "modelopt"}}')
    for path in (tmp_path / "model.safetensors", folder):
        for of_runs in ({"recipe": "full"}, {"static": True}):
            with pytest.raises(ValueError, match=f"is for folders of runs; {path} is packed"):
                deploy.export(path, "onnx-portable", tmp_path / "new.onnx", **of_runs)
    assert isinstance(Subject(_ABOUT.create(), _ABOUT).model, nnx.Module)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("wrong", [{"batch": 0}, {"bound": 0.0}, {"half": "float8"}])
def test_options(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)
