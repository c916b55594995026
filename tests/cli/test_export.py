"""fp4jax export: what it prints, its exit codes, and what it leaves behind."""

from fp4jax import nnx as fp4nnx
from fp4jax.predict import About, save_packed
from tests.cli.test_verbs import run as run  # the fixture


def test_a_packed_file_is_exported_once(run, tmp_path):
    about = About("cnn", "500k", image_size=8, options={"stages": 2, "channels": 16})
    model = fp4nnx.apply_recipe(about.create(), "forward_only", keep="encoders")
    model.eval()
    path = save_packed(tmp_path / "cnn.safetensors", fp4nnx.pack(model), about)
    arguments = [path, "--to", "onnx-portable", "--out", "cnn.onnx", "--batch", 1]
    code, out, _ = run("export", *arguments)
    assert code == 0
    first, *_, last = out.splitlines()
    assert first.split()[:2] == ["decoders.0", "ConvTranspose"]
    assert last.startswith("cnn.onnx: onnx-portable, ")
    written = (tmp_path / "cnn.onnx").read_bytes()
    code, out, error = run("export", *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "cnn.onnx exists" in error
    assert (tmp_path / "cnn.onnx").read_bytes() == written


def test_targets_are_named(run):
    code, _, error = run("export", "run", "--to", "onnx", "--out", "x.onnx")
    assert (code, error.count("\n")) == (2, 1)
    assert "known names: onnx-portable, onnx-standard, onnx-trt" in error
