"""fp4jax targets, from the command line to files."""

import csv
import json
import sys

import pytest

from fp4jax import nnx as fp4nnx
from fp4jax.cli.options import RunOptions
from fp4jax.cli.recipe_options import recipe_of
from fp4jax.cli.verbs import evaluate, targets
from fp4jax.files import write_json
from fp4jax.predict import About, save_packed
from fp4jax.train import RunConfig

SMALL = ["--arch", "swin", "--image-size", "32", "--recipe", "2d+rht+sr"]


def _run(monkeypatch, *argv: str) -> None:
    monkeypatch.setattr(sys, "argv", ["targets", *argv])
    targets.VERB.run()


def test_tables_files_and_rules_of_options(monkeypatch, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("t.json", "t.csv", "rules.json")]
    flags = [w for pair in zip(("--json", "--csv", "--rules"), files, strict=True) for w in pair]
    _run(monkeypatch, *SMALL, "--target", "tensorrt", "--calibrated", "--sources", *flags)
    printed = capsys.readouterr().out
    assert printed.startswith("swin 500k 2d+rht+sr, one image of 32x32x3")
    assert "https://docs.nvidia.com/" in printed
    (table,) = json.loads((tmp_path / "t.json").read_text())["tables"]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [layer["path"] for layer in table["layers"]]
    config = RunConfig(arch="swin", recipe=recipe_of(f"@{files[2]}"))
    assert config.recipe.of("blocks.0.attn.qkv").name == "2d+rht+sr"
    assert config.recipe.of("decoder.classifier") is None
    # The rules do not replace a file.
    with pytest.raises(SystemExit) as stop:
        _run(monkeypatch, *SMALL, "--target", "tensorrt", "--rules", files[2])
    assert stop.value.code == 2
    assert "rules.json exists" in capsys.readouterr().err


def test_a_configuration_and_shares_alone(monkeypatch, tmp_path, capsys):
    path = tmp_path / "config.json"
    write_json(path, RunOptions(arch="cnn", recipe="full").config().to_json())
    names = ["openvino", "fp4jax"]
    _run(monkeypatch, "--config", str(path), "--image-size", "32", "--summary", "--target", *names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cnn 500k full")
    assert [line.split(":")[0] for line in lines[1:]] == names


def test_a_packed_file_without_static_scales_says_how_it_gets_them(monkeypatch, tmp_path, capsys):
    about = About("cnn", "500k", image_size=8, options={"stages": 2, "channels": 16})
    model = fp4nnx.pack(fp4nnx.apply_recipe(about.create(), "forward_only", keep="encoders"))
    path = str(save_packed(tmp_path / "cnn.safetensors", model, about))
    for target, hints in {"tensorrt": 1, "openvino": 0}.items():
        _run(monkeypatch, path, "--summary", "--target", target)
        printed = capsys.readouterr().out
        assert printed.count("packed by fp4jax predict RUN --static --save FILE") == hints


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no target: give --target with one or several of tensorrt"),
        (["--target", "trt"], "no target 'trt'; known names"),
        (["nowhere", "--target", "cudnn"], "there is no"),
        (["nowhere", "--target", "cudnn", "--arch", "cnn"], "nowhere has its own"),
        (["--target", "cudnn", "fp4jax", "--rules", "r.json"], "--rules is for one target"),
    ],
)
def test_errors_in_one_line(monkeypatch, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        _run(monkeypatch, *argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_evaluation_on_no_target(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "runs/one", "--fp8"])
    with pytest.raises(SystemExit) as stop:
        evaluate.VERB.run()
    assert stop.value.code == 2
    assert "--fp8 and --half say how targets compute; give --target" in capsys.readouterr().err
