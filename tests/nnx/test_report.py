"""report(model): which layers hold a recipe, which use it, and what is said about it."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import fp4jax as fp4
from fp4jax.nnx import apply_recipe, pack, report
from tests.nnx.test_apply_recipe import PATHS, X, apply, net, precisions
from tests.samples import assert_same_bits

# Of two images of 4x4: four projections, two convolutions of two taps, up of 16 taps.
FP4 = 2 * 16 * (4 * 18 * 18 + 2 * (2 * 18 * 18) + 16 * 18 * 8)
# first, head on 8x8, and q k^T and p v of two heads.
HIGH = 2 * 16 * 9 * 3 * 18 + 2 * 64 * 8 + 2 * 2 * 16 * 16 * 18


def test_report():
    result = report(net("2d+rht+sr", keep=["first", "head"]))
    assert [layer.path for layer in result.layers] == PATHS
    rows = {layer.path: layer for layer in result.layers}
    assert (rows["up"].kind, rows["up"].kernel_shape) == ("ConvTranspose", (4, 4, 18, 8))
    assert rows["attention.out"].kind == "LinearGeneral"
    assert rows["attention.out"].kernel_shape == (2, 9, 18)
    assert rows["blocks.0"].parameters == 2 * 18 * 18
    high = [layer.path for layer in result.layers if layer.precision == "high precision"]
    assert high == ["first", "head"]
    assert {layer.precision for layer in result.quantized} == {"2d+rht+sr"}
    assert len(result.quantized) == 7
    # 4 projections, 2 blocks and up; biases, the norm, first and head are not
    quantized = 4 * 18 * 18 + 2 * (2 * 18 * 18) + 16 * 18 * 8
    assert sum(layer.parameters for layer in result.quantized) == quantized
    assert result.parameters == quantized + 6 * 18 + 8 + (27 + 1) * 18 + 2 * 18 + 9
    share = f"{quantized / result.parameters:.1%} of {result.parameters:,} parameters"
    held = f"2d+rht+sr: set on 7 of 9 layers, {share}; high precision: first, head"
    assert result.summary == f"{held} (report(model, x) tells which use it)"
    lines = str(result).splitlines()
    assert lines[0].split() == ["layer", "kind", "kernel", "recipe"]
    assert lines[5].split() == ["blocks.0", "Conv", "2x1x18x18", "2d+rht+sr"]
    assert lines[-1] == result.summary
    traced = report(net("2d+rht+sr", keep=["first", "head"]), X)
    assert [layer.path for layer in traced.quantized] == [layer.path for layer in result.quantized]
    assert traced.summary == (
        f"2d+rht+sr: 7 of 9 layers quantized, {share}, "
        f"{FP4 / (FP4 + HIGH):.1%} of {FP4 + HIGH:,} multiply-adds in FP4; "
        "high precision: first, head"
    )
    heads = ["layer", "kind", "kernel", "precision", "multiply-adds", "bytes"]
    assert str(traced).splitlines()[0].split() == heads
    assert (traced.fp4_multiply_adds, traced.multiply_adds) == (FP4, FP4 + HIGH)
    # What attention multiplies is not in a layer.
    within = {product for layer in traced.layers for product in layer.products}
    outside = [product for product in traced.products if product not in within]
    assert [p.path for p in outside] == ["attention", "attention"]
    assert sum(p.multiply_adds for p in outside) == 2 * 2 * 16 * 16 * 18


def test_report_without_recipe():
    result = report(net())
    assert result.summary.startswith("baseline: 0 of 9 layers quantized, 0.0% of ")
    assert set(precisions(net()).values()) == {"high precision"}
    assert precisions(net("baseline")) == precisions(net())
    # a layer on its own
    assert report(nnx.Linear(16, 4, rngs=nnx.Rngs(0))).layers[0].path == "(model)"


def test_one_line_is_logged_or_printed(capsys, caplog):
    with caplog.at_level(logging.INFO, logger="fp4jax"):
        model = apply_recipe(net(), "full", keep="head")
    assert caplog.messages == [report(model).summary]
    assert capsys.readouterr() == ("", "")
    caplog.clear()
    apply_recipe(model, "full", keep="head", verbose=True)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{report(model).summary}\n", "")
    assert printed.out.startswith("full: set on 8 of 9 layers, ")
    assert caplog.messages == []


class Bypass(nnx.Linear):
    def __call__(self, inputs, out_sharding=None):
        return inputs @ self.kernel[...]


def helper(layer, inputs):
    return layer.dot_general(inputs, layer.kernel[...], (((1,), (0,)), ((), ())))


class Delegates(nnx.Linear):
    """Its own bytecode names no slot."""

    def __call__(self, inputs, out_sharding=None):
        return helper(self, inputs)


class Branches(nnx.Module):
    """Something of everything that does or does not use its recipe."""

    def __init__(self, rngs: nnx.Rngs):
        self.used = nnx.Linear(4, 4, rngs=rngs)
        self.direct = nnx.Linear(4, 4, rngs=rngs)
        self.bypass = Bypass(4, 4, rngs=rngs)
        self.delegates = Delegates(4, 4, rngs=rngs)
        self.idle = nnx.Linear(4, 4, rngs=rngs)
        self.einsum = nnx.Einsum("bi,ij->bj", (4, 4), None, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x, training=True):
        x = self.norm(self.used(x) @ self.direct.kernel[...], use_running_average=not training)
        return nnx.remat(lambda layer, x: layer(x))(self.delegates, self.einsum(self.bypass(x)))


def test_layers_that_do_not_use_their_recipe():
    model = apply(Branches(nnx.Rngs(0)), "full")
    before = nnx.state(model)
    held = {layer.path: layer.precision for layer in report(model).layers}
    assert held == dict.fromkeys(held, "full")
    for inputs in ((jnp.ones((2, 4)),), (jax.ShapeDtypeStruct((2, 4), jnp.float32), False)):
        traced = report(model, *inputs)
        assert [layer.path for layer in traced.quantized] == ["delegates", "einsum", "used"]
        assert traced.summary.startswith("full: 3 of 6 layers quantized, 38.")
        assert traced.summary.endswith(
            "high precision: bypass (full not used), direct (full not used), idle (full not used)"
        )
    assert str(report(nnx.eval_shape(lambda: model), *inputs)) == str(traced)
    jax.tree.map(assert_same_bits, nnx.state(model), before)


def test_what_a_report_of_a_model_without_recipe_says():
    result = report(Branches(nnx.Rngs(0)), jnp.ones((2, 4)))
    assert result.summary.startswith("baseline: 0 of 6 layers quantized, 0.0% of ")
    foreign = nnx.Linear(4, 4, dot_general=lambda *a, **k: None, rngs=nnx.Rngs(0))
    assert report(foreign).layers[0].remark == "own dot_general"


def test_subclasses_that_use_their_slot():
    class Super(nnx.Linear):
        def __call__(self, inputs, out_sharding=None):
            return 2 * super().__call__(inputs)

    class Direct(nnx.Conv):
        def __call__(self, inputs, out_sharding=None):
            return self.conv_general_dilated(inputs, self.kernel[...], (1,), "SAME")

    rngs = nnx.Rngs(0)
    cases = ((Super(4, 4, rngs=rngs), (2, 4)), (Direct(4, 4, 1, rngs=rngs), (2, 4, 5)))
    for layer, shape in cases:
        assert report(apply(layer, "full"), jnp.ones(shape)).quantized


class Products(nnx.Module):
    """Each way to multiply once."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(32, 16, rngs=rngs)
        self.depthwise = nnx.Conv(16, 16, 3, feature_group_count=16, rngs=rngs)
        self.up = nnx.ConvTranspose(16, 8, (2,), (2,), rngs=rngs)
        self.einsum = nnx.Einsum("bni,ij->bnj", (8, 4), None, rngs=rngs)
        self.direct = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        x = self.einsum(self.up(self.depthwise(self.linear(x)))) @ self.direct.kernel[...]
        scores = jnp.einsum("bnc,bmc->bnm", x, x)
        dims = (((2,), (1,)), ((0,), (0,)))
        return fp4.dot_general(scores, x, dims, recipe="full")


@pytest.mark.parametrize("recipe", [None, "baseline", "full", "2d+rht+sr"])
def test_products(recipe):
    """2 images of 5 positions, 10 after up; whatever computes them, the multiply-adds are one."""
    model = Products(nnx.Rngs(0))
    model = model if recipe is None else apply(model, recipe)
    result = report(model, jax.ShapeDtypeStruct((2, 5, 32), jnp.float32))
    in_fp4 = recipe in ("full", "2d+rht+sr")
    rows = [(p.path, p.kind, p.multiply_adds, p.fp4) for p in result.products]
    einsum = ("einsum_op", 20 * 8 * 4, in_fp4)
    assert rows == [
        ("linear", "dot_general", 10 * 32 * 16, in_fp4),
        ("depthwise", "conv_general_dilated", 10 * 3 * 16, in_fp4),
        ("up", "conv_transpose", 10 * 16 * 16, in_fp4),
        ("einsum", *einsum),
        ("", "dot_general", 20 * 4 * 4, False),
        ("", "dot_general", 20 * 10 * 4, False),
        ("", "dot_general", 20 * 10 * 4, True),
    ]
    assert result.multiply_adds == sum(row[2] for row in rows)
    weights = 256 + (2 if recipe == "2d+rht+sr" else 32) if in_fp4 else 4 * 512
    data = 160 + 20 if in_fp4 else 4 * 320
    assert result.products[0].bytes == weights + data
    assert str(result).splitlines()[-2].split()[:2] == ["(model)", "dot_general"]


def test_products_that_run_several_times():
    class Stack(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            make = nnx.vmap(lambda rngs: apply(nnx.Linear(4, 4, rngs=rngs), "full"))
            self.layers = make(rngs.split(3))
            self.twice = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, x):
            x = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.layers
            )
            x = jax.lax.cond(x.sum() > 0, lambda x: x, lambda x: x @ jnp.ones((4, 4)), x)
            return nnx.remat(self.twice)(nnx.jit(lambda m, x: m(x))(self.twice, x))

    result = report(Stack(nnx.Rngs(0)), jnp.ones((2, 4)))
    rows = [(p.path, p.times, p.multiply_adds) for p in result.products]
    assert rows == [("layers", 3, 96), ("", 1, 32), ("twice", 1, 32), ("twice", 1, 32)]
    assert result.fp4_multiply_adds == 96


def test_a_packed_model_has_the_same_products():
    model = apply(Products(nnx.Rngs(0)), "full", keep="direct")
    x = jnp.ones((2, 5, 32))
    shape = lambda p: (p.path, p.kind, p.multiply_adds, p.fp4)  # noqa: E731
    packed, trained = (report(m, x).products for m in (pack(model), model))
    assert list(map(shape, packed)) == list(map(shape, trained))


@pytest.mark.parametrize("arch", ["cnn", "vit", "swin", "unet", "swin_unetr"])
def test_models_have_the_multiply_adds_that_macs_counts(arch):
    make = lambda: fp4.models.create(  # noqa: E731
        arch, "500k", in_channels=3, num_classes=1, image_size=64, rngs=nnx.Rngs(0)
    )
    plain: Any = nnx.eval_shape(make)
    expected = sum(fp4.models.macs(plain, 64).values())
    model = nnx.eval_shape(lambda: apply(make(), "2d+rht+sr", keep=plain.high_precision))
    model.eval()
    result = report(model, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert result.multiply_adds == expected
    assert 0.5 < result.fp4_multiply_adds / expected < 1
