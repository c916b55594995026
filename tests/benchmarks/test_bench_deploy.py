"""The latency table of deployed models, at a toy size."""

import functools
import json

import pytest

from benchmarks import bench_deploy
from fp4jax import models


@pytest.mark.slow  # two programs of a network and four files
def test_deployed_models(monkeypatch, tmp_path):
    small = functools.partial(models.create, stages=2, channels=16)
    monkeypatch.setattr(models, "create", small)
    file = tmp_path / "toy.json"
    args = bench_deploy.Args(("cnn",), image_size=16, rounds=2, pause=0.0, json=file)
    bench_deploy.main(args)
    ((title, rows),) = json.loads(file.read_text())["tables"].items()
    assert title == "cnn 500k, one image of 16 pixels a side"
    assert [row["name"] for row in rows] == [
        "fp4jax, float32",
        "fp4jax, packed",
        "onnxruntime, float32",
        "onnxruntime, onnx-portable",
        "OpenVINO, float32",
        "OpenVINO, onnx-standard",
    ]
    for row in rows:
        assert row["MB"] > 0
        assert row["median_ms"] or row["note"] == "openvino is not installed"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"arch": ("resnet",)}, "arch has resnet"),
        ({"recipe": "baseline"}, "quantizes no weights"),
        ({"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_wrong_options(option, message):
    with pytest.raises(ValueError, match=message):
        bench_deploy.Args(**option)
