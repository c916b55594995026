"""Packed layers in every dialect: results, codes and scale bytes."""

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx
from fp4jax.core import formats
from fp4jax.deploy.onnx import running
from fp4jax.deploy.onnx.dialects import DIALECTS
from fp4jax.deploy.onnx.half import step
from fp4jax.deploy.onnx.model import to_onnx
from fp4jax.deploy.onnx.walker import UnsupportedError
from tests.deploy.onnx.packed_layers import alone, images, packed

LAYERS = {
    "linear": (lambda: nnx.Linear(20, 8, rngs=nnx.Rngs(0)), (3, 20)),
    "general": (
        lambda: nnx.LinearGeneral((2, 20), (3, 4), axis=(1, -1), rngs=nnx.Rngs(0)),
        (2, 3, 20),
    ),
    "pointwise": (lambda: nnx.Conv(20, 8, (1, 1), rngs=nnx.Rngs(0)), (4, 5, 20)),
    "patches": (lambda: nnx.Conv(20, 8, (2, 2), (2, 2), rngs=nnx.Rngs(0)), (4, 6, 20)),
    "conv": (lambda: nnx.Conv(20, 8, (3, 3), padding=1, rngs=nnx.Rngs(0)), (4, 5, 20)),
    "strided": (lambda: nnx.Conv(20, 8, (3, 3), (2, 2), rngs=nnx.Rngs(0)), (4, 5, 20)),
    "grouped": (
        lambda: nnx.Conv(40, 8, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0)),
        (4, 5, 40),
    ),
    "volume": (lambda: nnx.Conv(16, 8, (3, 3, 3), rngs=nnx.Rngs(0)), (3, 4, 3, 16)),
    "transposed": (
        lambda: nnx.ConvTranspose(20, 8, (3, 3), (2, 2), rngs=nnx.Rngs(0)),
        (3, 4, 20),
    ),
}
#: One recipe for each thing that a file must say in its own way.
RECIPES = ("forward_only", "2d+rht", "forward_only+rht")


def _run(dialect: str):
    known = DIALECTS[dialect].runs_in_onnxruntime
    return running.runtime if known else running.reference


def _compare(layer: str, recipe: str, dialect: str, batch: int | None) -> onnx.ModelProto:
    make, shape = LAYERS[layer]
    x = images(*shape)
    model = packed(make(), recipe, x if DIALECTS[dialect].static else None)
    written = to_onnx(model, shape, DIALECTS[dialect].with_half("float32"), batch=batch)
    (found,) = _run(dialect)(written.model, x, ["logits"])
    expected = alone(model, x)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    return written.model


@pytest.mark.parametrize("layer", ["linear", "conv", "transposed"])
def test_portable(layer):
    _compare(layer, "forward_only", "onnx-portable", None)


@pytest.mark.parametrize(
    ("layer", "recipe", "dialect"),
    [
        ("linear", "2d+rht", "onnx-trt"),
        ("pointwise", "forward_only+rht", "onnx-trt"),
        ("grouped", "2d+rht", "onnx-standard"),
    ],
)
def test_float4(layer, recipe, dialect):
    _compare(layer, recipe, dialect, 2)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_recipe_and_dialect(layer, recipe, dialect, batch):
    _compare(layer, recipe, dialect, batch)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["forward_only+4o6", "forward_only+clip"])
@pytest.mark.parametrize("dialect", ["onnx-portable", "onnx-standard"])
def test_other_scales(recipe, dialect):
    _compare("linear", recipe, dialect, None)


@pytest.mark.parametrize("recipe", ["forward_only", "2d+rht"])
def test_codes_and_scale_bytes_are_the_packed_ones(recipe):
    model = packed(LAYERS["conv"][0](), recipe)
    written = to_onnx(model, LAYERS["conv"][1], DIALECTS["onnx-standard"]).model
    tensors = {t.name: t for t in written.graph.initializer}
    q = model.kernel.values
    rows = 8
    assert tensors["kernel_f4"].raw_data == np.asarray(q.codes)[:rows].tobytes()
    scales = np.asarray(q.block_scales)
    if recipe == "2d+rht":  # tiles of 16 rows
        scales = scales.repeat(16, axis=0)
    assert tensors["kernel_f8_scale"].raw_data == scales[:rows].tobytes()
    scale = onnx.numpy_helper.to_array(tensors["kernel_f8_scale_f32_scale"])
    assert scale == np.float32(np.asarray(q.amax)) / np.float32(2688)
    portable = to_onnx(model, LAYERS["conv"][1], DIALECTS["onnx-portable"]).model
    codes = {t.name: t for t in portable.graph.initializer}["kernel_codes"]
    assert codes.raw_data == tensors["kernel_f4"].raw_data


def test_activations_have_the_codes_and_scales_of_quantize():
    make, shape = LAYERS["linear"]
    x = images(*shape)
    model = packed(make(), "forward_only", x)
    written = to_onnx(model, shape, DIALECTS["onnx-trt"], batch=2).model
    node = next(n for n in written.graph.node if n.op_type == "TRT_FP4DynamicQuantize")
    values, scales = running.reference(written, x, node.output)
    from fp4jax import TensorSpec, quantize

    amax = model.dot_general.x_amax
    q = quantize(x, TensorSpec(amax="static"), amax=amax)
    # The codes' values, of the row that is filled up with zeros.
    decoded = np.asarray(formats.decode_e2m1(q.unpacked_codes()))
    np.testing.assert_array_equal(np.asarray(values, np.float32)[..., :20], decoded)
    np.testing.assert_array_equal(
        np.asarray(scales, np.float32), np.asarray(q.block_scales, np.float32)
    )
    assert node.domain == "trt"
    types = {info.name: info.type.tensor_type.elem_type for info in written.graph.value_info}
    assert [types[name] for name in node.output] == [23, 17]


@pytest.mark.parametrize(
    ("layer", "recipe", "half"),
    [("conv", "2d+rht", "bfloat16"), ("transposed", "full", "float16")],
)
def test_products_in_16_bits_are_what_the_target_table_says(layer, recipe, half):
    """The file, ``target_table`` and the model that ``evaluate --target`` scores are one thing."""
    make, shape = LAYERS[layer]
    x = images(*shape)
    model = fp4nnx.apply_recipe(make(), recipe)
    there, table = deploy.as_on(model, "tensorrt", x, half=half)
    dialect = DIALECTS["onnx-trt"].with_half(half)
    written = to_onnx(packed(make(), recipe), shape, dialect)
    (call,) = written.calls
    assert {dialect.in_words[call.form]: 1.0} == table.shares
    (found,) = running.reference(written.model, x, ["logits"])
    expected = np.asarray(there(jnp.asarray(x)))
    # A last bit of the float32 sums may round to the next number.
    assert (np.abs(found - expected) <= step(expected, half)).all()
    assert (found == expected).mean() > 0.95
    kind = {"bfloat16": onnx.TensorProto.BFLOAT16, "float16": onnx.TensorProto.FLOAT16}[half]
    nodes = {n.op_type: n for n in written.model.graph.node}
    conv = nodes["Conv" if layer == "conv" else "ConvTranspose"]
    types = {i.name: i.type.tensor_type.elem_type for i in written.model.graph.value_info}
    assert [types[name] for name in (*conv.input, *conv.output)] == [kind] * 3
    # weights are stored as codes and scale bytes all the same
    stored = {t.name: t.data_type for t in written.model.graph.initializer}
    assert stored["kernel_f4"] == onnx.TensorProto.FLOAT4E2M1


def test_tensorrt_needs_static_scales():
    make, shape = LAYERS["linear"]
    with pytest.raises(UnsupportedError, match=r"no calibrated amax.*RUN --static --save FILE"):
        to_onnx(packed(make(), "forward_only"), shape, DIALECTS["onnx-trt"])


def test_onnxruntime_divides_as_often_as_the_quantizer():
    # It makes 1 / a * b one division where it may, after which one of these is another code.
    x = np.zeros((1, 2, 16), np.float32)
    x[0, 0, 0] = 7.419673442840576
    x[0, 1, :6] = 0.334758788, -0.0135043226, 0.80874455, -0.00106862548, 0.472497642, 0.0993706286
    model = packed(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), "forward_only")
    written = to_onnx(model, (2, 16), DIALECTS["onnx-portable"], batch=1)
    (found,) = running.runtime(written.model, x, ["logits"])
    expected = alone(model, x)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
