"""Target tables of small models, recipes made for a target, and models as a target computes."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fp4jax import deploy, nnx as fp4nnx
from fp4jax.core.spec import TensorSpec
from fp4jax.ops.recipe import Recipe
from fp4jax.ops.rules import Rules

X = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)


class Attend(nnx.Module):
    """A convolution, an attention, and a head that is kept."""

    high_precision = (r"head$",)

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, 32, decode=False, rngs=rngs)
        self.head = nnx.Conv(32, 1, (1, 1), rngs=rngs)

    def __call__(self, x):
        y = self.conv(x)
        tokens = y.reshape(y.shape[0], -1, y.shape[-1])
        return self.head(y + self.attend(tokens).reshape(y.shape))


@pytest.fixture(scope="module")
def model() -> Attend:
    return fp4nnx.apply_recipe(Attend(nnx.Rngs(0)), "2d+rht+sr", r"head$")


def test_a_table_has_a_row_for_each_layer_and_attention(model):
    table = deploy.target_table(model, "tensorrt", X, calibrated=True)
    modes = {row.path: str(row.mode) for row in table.rows}
    projections = dict.fromkeys([f"attend.{p}" for p in ("query", "key", "value", "out")], "FP4")
    assert modes == {
        "conv": "16 bits with FP4 weights",
        "attend": "float32",
        "head": "float32",
        **projections,
    }
    # 2 images of 8 x 8 pixels: products of the convolution, the projections, q k and P v, the head
    macs = {"conv": 128 * 9 * 16 * 32, "attend.query": 128 * 32 * 32, "head": 128 * 32}
    macs["attend"] = 2 * 2 * 64 * 64 * 32
    known = {row.path: row.multiply_adds for row in table.rows}
    assert known | macs == known
    assert table.multiply_adds == fp4nnx.report(model, X).multiply_adds
    assert table.fp4_share == pytest.approx(4 * macs["attend.query"] / table.multiply_adds)
    assert sum(table.shares.values()) == pytest.approx(1)


def test_forms_of_a_table(model):
    table = deploy.target_table(model, "tensorrt", X)
    assert "calibrate the run" in str(table)
    assert str(table).splitlines()[-1] == table.summary
    record = json.loads(json.dumps(table.to_json()))
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["path"] for row in rows] == [layer["path"] for layer in record["layers"]]
    assert rows[0]["shape"] == "3x3x16x32"
    assert set(table.sources()) <= {s for row in rows for s in row["sources"].split()}


def test_attention_and_calibrated_models(model):
    recipe = dict.fromkeys([r"attend\.attention"], "attention_qat") | {".*": "full"}
    own = fp4nnx.expect_static(fp4nnx.apply_recipe(Attend(nnx.Rngs(0)), recipe))
    modes = {row.path: str(row.mode) for row in deploy.target_table(own, "tensorrt", X).rows}
    assert modes["attend"] == "float32 with FP4 values"
    assert modes["attend.query"] == modes["head"] == "FP4"


def test_packed_models_have_the_same_table(model):
    unpacked = deploy.target_table(model, "fp4jax", X)
    packed = deploy.target_table(fp4nnx.pack(model), "fp4jax", X)
    assert packed.shares == unpacked.shares
    assert [str(r.mode) for r in packed.rows] == [str(r.mode) for r in unpacked.rows]


def test_no_examples(model):
    with pytest.raises(ValueError, match="no example inputs"):
        deploy.target_table(model, "tensorrt")


def test_a_recipe_for_a_target_runs_in_fp4_there(model):
    rules = deploy.recipe_for(model, "2d+rht+sr", "tensorrt", X)
    assert Rules.make(rules).to_json()  # as --recipe @FILE reads it
    quantized = fp4nnx.expect_static(fp4nnx.apply_recipe(Attend(nnx.Rngs(0)), rules))
    table = deploy.target_table(quantized, "tensorrt", X)
    assert set(table.shares) == {"FP4", "float32"}
    assert table.fp4_share == deploy.target_table(model, "tensorrt", X, calibrated=True).fp4_share
    # nothing is kept but what cannot run
    everything = deploy.recipe_for(model, "full", "tensorrt", X, keep=())
    assert everything == {**rules, **{k: "full" for k, v in rules.items() if v}, r"head$": "full"}
    by_rules = deploy.recipe_for(model, {"attend": 5, ".*": None}, "cudnn", X, keep=())
    assert by_rules == rules


def test_no_recipe_for_a_target_without_fp4(model):
    with pytest.raises(ValueError, match="onnxruntime runs nothing of this model in FP4 under"):
        deploy.recipe_for(model, "full", "onnxruntime", X)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jax.random.normal(jax.random.key(0), X.shape)


def test_a_target_of_float32_computes_what_the_model_does(model, x):
    there, table = deploy.as_on(model, "openvino", x)
    assert table.runtime.name == "openvino"
    fp4nnx.refresh_keys(model, 0, 0)
    np.testing.assert_array_equal(there(x), model(x))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_16_bit_products_have_weights_on_the_grid_and_rounded_operands(x, half):
    conv = fp4nnx.apply_recipe(nnx.Conv(16, 8, (3, 3), rngs=nnx.Rngs(0)), "forward_only")
    there, _ = deploy.as_on(conv, "cudnn", x, half=half)
    # w alone in FP4: the same weights, multiplied as they are
    alone = nnx.Conv(16, 8, (3, 3), rngs=nnx.Rngs(0))
    fp4nnx.apply_recipe(alone, Recipe(name="w", fprop=(None, TensorSpec())))
    expected, found = alone(x), there(x)
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[half]
    error = np.abs(np.asarray(found - expected)).max() / np.abs(np.asarray(expected)).max()
    assert rounding / 50 < error < 2 * rounding
    # the model itself is as it was
    assert conv.conv_general_dilated.recipe.name == "forward_only"


def test_fp8_products_are_those_of_the_format(x):
    conv = fp4nnx.apply_recipe(nnx.Conv(16, 8, (3, 3), rngs=nnx.Rngs(0)), "2d+rht+sr")
    fp4nnx.calibrate(conv, [x])
    there, table = deploy.as_on(conv, "tensorrt", x, fp8=True)
    assert table.shares == {"FP8": 1.0}
    direct = fp4nnx.apply_recipe(nnx.Conv(16, 8, (3, 3), rngs=nnx.Rngs(0)), "fp8_forward_only")
    fp4nnx.calibrate(direct, [x])
    np.testing.assert_array_equal(there(x), direct(x))


def test_packed_models_are_refused(model, x):
    with pytest.raises(ValueError, match="the model is packed"):
        deploy.as_on(fp4nnx.pack(model), "tensorrt", x)
