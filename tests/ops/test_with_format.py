"""Recipes in other formats: names, records, products of their operands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax import nnx as fp4nnx
from fp4jax.ops.recipe import Recipe
from fp4jax.train.config import RunConfig, id_of
from tests.checks import assert_close, assert_same_sums, three_gemms
from tests.oracle import values as oracle
from tests.samples import normal

DIMENSIONS = (((1,), (0,)), ((), ()))
E3M2 = fp4.Format("e3m2_8", fp4.Grid(3, 2), 8, "e8m0")


def test_names_find_recipes():
    for name in ("mxfp4_full", "mxfp8_forward_only", "fp8_full", "int8_forward_only", "int4_sr"):
        recipe = fp4.get_recipe(name)
        assert recipe.name == name
        format, base = name.split("_", 1)
        assert recipe == fp4.with_format(base, format)
        assert {spec.format.name for spec in recipe.operands if spec} == {format}
        assert fp4.with_format(recipe, "nvfp4") == fp4.get_recipe(base)
        assert Recipe.from_json(recipe.to_json()) == recipe
    assert not [name for name in fp4.recipes() if "mxfp4" in name]
    assert fp4.get_recipe("nvfp4_full") == fp4.get_recipe("full")
    assert fp4.with_format("mxfp4_full", "int8").name == "int8_full"


def test_tiles_become_the_formats():
    """16x16 tiles are 32x32 ones, or one scale for all: either way w has one set of codes."""
    for format, block in (("mxfp4", (32, 32)), ("fp8", None), (E3M2, (8, 8))):
        recipe = fp4.with_format("2d+rht+sr", format)
        assert recipe.fprop[1].block == block
        assert recipe.shares_w
    assert not fp4.get_recipe("mxfp4_full").shares_w


def test_records_of_nvfp4_are_those_of_earlier_versions():
    """Runs keep their ids."""
    record = fp4.get_recipe("full").to_json()["fprop"][0]
    assert set(record) == {
        "block",
        "rounding",
        "scaling",
        "hadamard",
        "four_over_six_error",
        "four_over_six_bound",
    }
    own = fp4.with_format("full", E3M2)
    record = own.to_json()
    assert record["fprop"][0]["format"]["elements"] == {
        "exponent": 3,
        "mantissa": 2,
        "largest": 28.0,
    }
    assert Recipe.from_json(record) == own


def test_a_run_has_a_format_by_name():
    run, nvfp4 = (RunConfig(recipe=name) for name in ("mxfp4_full", "full"))
    assert (run.recipe, run.recipe_name) == ("mxfp4_full", "mxfp4_full")
    ids = [id_of(run, {"config": run.to_json()}) for run in (run, nvfp4)]
    assert "mxfp4_full" in ids[0]
    assert ids[0] != ids[1]
    with pytest.raises(ValueError, match="FORMAT_NAME, such as mxfp4_full, is one in another"):
        RunConfig(recipe="mxfp5_full")


@pytest.mark.parametrize(
    ("recipe", "format", "message"),
    [
        ("forward_only+4o6", "mxfp4", "'forward_only\\+4o6' has no form in mxfp4: .*four_over_six"),
        ("baseline", "mxfp4", "'baseline' quantizes nothing"),
        ("full", "fp5", "no format 'fp5'"),
    ],
)
def test_what_a_format_does_not_have(recipe, format, message):
    with pytest.raises(ValueError, match=message):
        fp4.with_format(recipe, format)


def dequantized(x, format: fp4.Format, axis: int) -> np.ndarray:
    moved = np.ascontiguousarray(np.moveaxis(np.asarray(x), axis, -1))
    q = oracle.quantize(moved, format.elements.name, format.block, format.scale, format.rule)
    return np.moveaxis(q.values.astype(np.float64), -1, axis)


@pytest.mark.parametrize(
    "formats", [("mxfp8", "int4"), pytest.param(("fp8", "mxfp4"), marks=pytest.mark.slow)]
)
def test_products_are_those_of_dequantized_operands(formats):
    """Two formats in one recipe; each operand along the contracted axis of its product."""
    first, second = map(fp4.get_format, formats)
    a, b = (fp4.TensorSpec(format=format) for format in (first, second))
    recipe = Recipe(name="mixed", fprop=(a, b), dgrad=(b, a), wgrad=(a, a))
    x, w, g = normal(0, 40, 70), normal(1, 70, 36), normal(2, 40, 36)
    run = jax.jit(three_gemms(lambda x, w: fp4.dot_general(x, w, DIMENSIONS, recipe=recipe)))
    expected = {
        "y": dequantized(x, first, 1) @ dequantized(w, second, 0),
        "dx": dequantized(g, second, 1) @ dequantized(w, first, 1).T,
        "dw": dequantized(x, first, 0).T @ dequantized(g, first, 0),
    }
    assert_close(run(x, w, g), expected, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mxfp4_2d+rht+sr", "int8_full", "int4_full", "mxfp8_chain_rule"])
def test_a_convolution_of_one_tap_is_a_product(name):
    x, w, g = normal(0, 2, 4, 5, 40), normal(1, 1, 1, 40, 36), normal(2, 2, 4, 5, 36)
    options = {"recipe": name, "key": jax.random.key(0)}
    layout = ("NHWC", "HWIO", "NHWC")
    conv = three_gemms(
        lambda x, w: fp4.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=layout, **options
        )
    )
    dot = three_gemms(lambda x, w: fp4.dot_general(x, w, DIMENSIONS, **options))
    y, dx, dw = jax.jit(conv)(x, w, g)
    expected = jax.jit(dot)(x.reshape(40, 40), w.reshape(40, 36), g.reshape(40, 36))
    assert_same_sums(y.reshape(40, 36), expected.y)
    if "sr" not in name:
        assert_same_sums(dx.reshape(40, 40), expected.dx)
        assert_same_sums(dw.reshape(40, 36), expected.dw)


def test_a_report_says_the_format():
    def shown(recipe) -> tuple[str, list[str], fp4nnx.Report]:
        model = fp4nnx.apply_recipe(nnx.Linear(64, 4, rngs=nnx.Rngs(0)), recipe, verbose=False)
        report = fp4nnx.report(model, jax.ShapeDtypeStruct((2, 64), jnp.float32))
        return report.summary.split(", ")[-1], str(report).splitlines()[1].split("  "), report

    summary, row, report = shown("mxfp8_full")
    assert summary == "100.0% of 512 multiply-adds in mxfp8"
    # A byte for each number and one for every 32.
    assert row[-1] == str((128 + 256) * 33 // 32)
    assert report.layers[0].format == "mxfp8"
    assert report.fp4_multiply_adds == 0
    assert shown("mxfp4_full")[2].fp4_multiply_adds == 512
    weights = fp4.TensorSpec(format="int4")
    mine = Recipe(name="mine", fprop=(fp4.TensorSpec(format="fp8"), weights))
    summary, row, _ = shown(mine)
    assert summary == "100.0% of 512 multiply-adds in fp8 * int4"
    assert "mine [fp8 * int4]" in row
    direct = nnx.Linear(64, 4, rngs=nnx.Rngs(0))
    direct.dot_general = lambda *args, **kwargs: fp4.dot_general(*args[:3], recipe="int8_full")
    report = fp4nnx.report(direct, jax.ShapeDtypeStruct((2, 64), jnp.float32))
    assert report.by_format == {"int8": 512}


def test_packed_layers_are_nvfp4s():
    model = fp4nnx.apply_recipe(nnx.Linear(64, 4, rngs=nnx.Rngs(0)), "mxfp4_full", verbose=False)
    with pytest.raises(ValueError, match=r"in mxfp4; packed layers and files are nvfp4's: apply"):
        fp4nnx.pack(model)


def test_a_mapped_axis_changes_the_bits_of_formats_without_amax():
    """axis_name is a promise about amax and about bits; the second one holds for all formats."""
    spec = fp4.TensorSpec(format="mxfp4", rounding="stochastic")
    x = jnp.broadcast_to(normal(0, 1, 3, 64), (2, 3, 64))
    run = lambda x: fp4.fake_quantize(  # noqa: E731
        x, spec, key=jax.random.key(0), axis_name="shards"
    )
    first, second = jax.vmap(run, axis_name="shards")(x)
    assert (first != second).any()
