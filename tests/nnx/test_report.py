"""report(model): which layers hold a recipe, which use it, and what is said about it."""

import logging

import jax
import jax.numpy as jnp
from flax import nnx

from fp4jax.nnx import apply_recipe, report
from tests.nnx.test_apply_recipe import PATHS, X, apply, net, precisions
from tests.samples import assert_same_bits


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
        f"2d+rht+sr: 7 of 9 layers quantized, {share}; high precision: first, head"
    )
    assert str(traced).splitlines()[0].split() == ["layer", "kind", "kernel", "precision"]


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
    assert held == dict.fromkeys(held, "full") | {"einsum": "high precision"}
    for inputs in ((jnp.ones((2, 4)),), (jax.ShapeDtypeStruct((2, 4), jnp.float32), False)):
        traced = report(model, *inputs)
        assert [layer.path for layer in traced.quantized] == ["delegates", "used"]
        assert traced.summary.startswith("full: 2 of 6 layers quantized, 25.")
        assert traced.summary.endswith(
            "high precision: bypass (full not used), direct (full not used), einsum (no slot), "
            "idle (full not used)"
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
