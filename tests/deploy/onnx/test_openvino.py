"""onnx-standard in OpenVINO, where that is installed."""

import numpy as np
import pytest

from fp4jax.deploy.onnx import running
from fp4jax.deploy.onnx.dialects import DIALECTS
from fp4jax.deploy.onnx.model import to_onnx
from fp4jax.deploy.onnx.verification import compare
from tests.deploy.onnx.packed_layers import network
from tests.deploy.onnx.test_models import NETWORKS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # it forks
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["swin", "unet3d"])
def test_networks(name, static, batch):
    openvino = pytest.importorskip("openvino")

    def run(model, images, outputs):
        core = openvino.Core()
        data = running.with_outputs(model, outputs).SerializeToString()
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        results = core.compile_model(core.read_model(data), "CPU", exact)({"images": images})
        return [np.asarray(results[i]) for i in range(len(outputs))]

    arch, size, options = NETWORKS[name]
    model, x = network(arch, size, "2d+rht", static=static, **options)
    written = to_onnx(model, x.shape[1:], DIALECTS["onnx-standard"], batch=batch)
    assert compare(written, model, x, run).worst[1] <= 1e-4
